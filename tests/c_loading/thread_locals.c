/* Thread-locals of a library that is opened late. -DMODEL="..." tells how they are reached. */
static int target;
static __thread int first __attribute__((tls_model(MODEL))) = 42;
static __thread int *relocated __attribute__((tls_model(MODEL))) = &target;
static __thread int zero __attribute__((tls_model(MODEL)));

static int *own_target(void) {
	return &target;
}
/* 0: as a new thread finds them */
int look(void) {
	return first == 42 && relocated == own_target() && !zero ? 0 : first * 1000 + zero;
}
void change(void) {
	first++;
	zero++;
	relocated = 0;
}
