/* What thunk.S knows of C's structures; shared_calls.c checks it. */
#ifndef GOTCHA_THUNK_H
#define GOTCHA_THUNK_H

/* struct libgotcha_thread */
#define THREAD_TABLE 0
#define THREAD_DEFER 8
#define THREAD_PENDING 12
#define THREAD_SET 24
#define THREAD_CALLS_END 96
#define THREAD_CALLS_LIMIT 104
#define THREAD_INTERRUPTED 144

/* struct libset */
#define SET_ERRNO_OFFSET 0

/* struct libgotcha_shared_call */
#define CALL_RETURN_ADDRESS 0
#define CALL_RBX 8
#define CALL_STACK_POINTER 16
#define CALL_TABLE 24
#define CALL_SET 32
#define CALL_SIZE 40

/* FXSAVE's area, and the first part of XSAVE's, where a header of 64 bytes follows */
#define FXSAVE_SIZE 512
#define XSAVE_HEADER_SIZE 64
/* XSAVE components that hold arguments or results of calls: x87, SSE, AVX, upper halves of zmm0 to zmm15
 * (Intel SDM volume 1, 13.1) */
#define VECTOR_COMPONENTS 0x47

#endif
