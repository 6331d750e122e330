// Kinds of pthread mutexes, as C++ locks.
#ifndef MUTEXES_H
#define MUTEXES_H

#include "check.h"

#include <pthread.h>

struct Pthread {
	pthread_mutex_t mutex;
	explicit Pthread(int type) {
		pthread_mutexattr_t attributes;
		CHECK(!pthread_mutexattr_init(&attributes) && !pthread_mutexattr_settype(&attributes, type));
		CHECK(!pthread_mutex_init(&mutex, &attributes));
	}
	void lock() { CHECK(!pthread_mutex_lock(&mutex)); }
	bool try_lock() { return !pthread_mutex_trylock(&mutex); }
	void unlock() { CHECK(!pthread_mutex_unlock(&mutex)); }
};
struct Recursive : Pthread { Recursive() : Pthread(PTHREAD_MUTEX_RECURSIVE) {} };
struct Errorcheck : Pthread { Errorcheck() : Pthread(PTHREAD_MUTEX_ERRORCHECK) {} };
struct Adaptive : Pthread { Adaptive() : Pthread(PTHREAD_MUTEX_ADAPTIVE_NP) {} };

#endif
