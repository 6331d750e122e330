/* A library with state. */
int late(void);
int late(void) {
	static int count;
	return ++count;
}
