/* Lists, dictionaries, patterns, large numbers, the byte compiler, and calls of the program. */
#include "job.h"

#include <tcl.h>

static const char script[] =
	"set words [regexp -all -inline {[a-z]+} $text]\n"
	"foreach word $words { dict incr counts $word }\n"
	"set lines {}\n"
	"foreach word [lsort -unique $words] { lappend lines [format {%-8s %5d} [string toupper $word] [dict get $counts $word]] }\n"
	"proc fibonacci n { if {$n < 2} { return $n }; expr {[fibonacci [expr {$n - 1}]] + [fibonacci [expr {$n - 2}]]} }\n"
	"lappend lines [fibonacci 13] [expr {7 ** 200 % 1000007}] [expr {sqrt(2)}] [halve 7]\n"
	"lappend lines [regsub -all {(\\w+), (\\d+)} $text {\\2 \\1}]\n"
	"for {set i 0} {$i < 50} {incr i} { catch { if {$i % 2} { error \"number $i\" } else { halve x } } message; lappend lines $message }\n"
	"lappend lines [encoding convertto utf-8 \\u00e4] [lsort -dictionary {a10 a9 a1}] [string map {is was} $text]\n"
	"join $lines \\n\n";

static int halve(ClientData unused, Tcl_Interp *interpreter, int count, Tcl_Obj *const values[]) {
	(void) unused;
	double value;
	if (count != 2 || Tcl_GetDoubleFromObj(interpreter, values[1], &value) != TCL_OK)
		return TCL_ERROR;
	Tcl_SetObjResult(interpreter, Tcl_NewDoubleObj(value / 2));
	return TCL_OK;
}

static uint64_t run(uint32_t seed) {
	enum { LENGTH = 2000 };
	char text[LENGTH + 1];
	fill_with_text(text, LENGTH, seed);
	text[LENGTH] = '\0';
	Tcl_FindExecutable("/nowhere");
	Tcl_Interp *interpreter = Tcl_CreateInterp();
	REQUIRE(interpreter);
	Tcl_SetVar(interpreter, "text", text, 0);
	Tcl_CreateObjCommand(interpreter, "halve", halve, NULL, NULL);
	REQUIRE(Tcl_Eval(interpreter, script) == TCL_OK);
	uint64_t all = digest_text(DIGEST_START, Tcl_GetStringResult(interpreter));
	REQUIRE(Tcl_Eval(interpreter, "set nothing") == TCL_ERROR);
	all = digest_text(all, Tcl_GetStringResult(interpreter));
	Tcl_DeleteInterp(interpreter);
	Tcl_FinalizeThread();
	return all;
}

const struct job jobs[] = { { .name = "tcl", .run = run }, { .name = NULL } };
