/* A library with code behind its data, as llvm-bolt lays out what it has optimised; for far.c. */
static int total = 1;

__attribute__((section(".far"))) int add(int number) {
	return total += number;
}
