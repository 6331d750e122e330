/* What profiled.c spends its time in. */
unsigned long profiled_checksum(const unsigned char *bytes, unsigned long length) {
	unsigned long sum = 1;
	for (unsigned long i = 0; i < length; i++)
		sum = sum * 31 + bytes[i];
	return sum;
}
