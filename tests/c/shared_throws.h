// A C++ library that tests share.
#ifndef SHARED_THROWS_H
#define SHARED_THROWS_H

#include <functional>
#include <memory>
#include <string>

struct Counted {
	Counted() { count++; }
	~Counted() { count--; }
	static int count;
};

struct Shape {
	virtual ~Shape();
	virtual int corners(int) = 0;
};

void shared_throw(int);
void shared_apply(const std::function<void(int)> &, int);
bool shared_catches(const std::function<void(int)> &, int);
std::unique_ptr<Shape> shared_shape();

#endif
