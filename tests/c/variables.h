/* The library of variables.c. */
struct section {
	const char *name;
	struct section *self;
};

extern int setting, constructed;
extern struct section sections[3];
extern int (*operation)(void);

int library_setting(void);
void library_set(int value);
int library_constructed(void);
struct section *library_section(int index);
int library_operate(void);
int library_operates(int (*expected)(void));
int count_call(void);
int calls(void);

/* Another library that refers to its variables. */
int user_setting(void);
struct section *user_section(int index);
