/* inger: call any function with a timeout, on the caller's own kernel thread. The C++17 interface: all of it is
 * here, over libinger.h. Link with -linger.
 *
 *     auto sum = inger::launch([&] { return add_up(numbers); }, 5ms);
 *     while (!sum.is_complete())
 *         sum.resume(5ms);
 *     use(sum.get());
 *
 *     std::optional<Image> image = inger::timeout([&] { return decode(file); }, 10ms);
 *
 * launch() returns when the function has returned or its time is up, whichever comes first. In the second case it
 * stopped wherever it was, in the middle of a library if need be. See libinger.h for what is the function's own
 * (thread-locals, the state of libraries) and what it shares (the program's variables, the heap, and all that its
 * captures refer to).
 *
 * Time is of the monotonic clock (but see options), rounded up to whole microseconds.
 *
 * Errors are std::system_error with the errno value in the generic category: resource_unavailable_try_again (EAGAIN) as
 * many functions are unfinished as this process can have; operation_canceled (ECANCELED) the function was cancelled
 * with the one that had launched it, or ended its thread; function_not_supported (ENOSYS) this process cannot run
 * preemptible functions; not_enough_memory (ENOMEM); others as the system has them. what() says more.
 *
 * An exception that leaves the function goes on in get(), or in timeout(). */
#ifndef INGER_HPP
#define INGER_HPP

#include "libinger.h"

#include <cerrno>
#include <chrono>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

namespace inger {

/* A budget: how long a function may run before its launcher goes on. */
class budget {
public:
	template <class Representation, class Period>
	budget(std::chrono::duration<Representation, Period> limit) noexcept {
		using microseconds = std::chrono::duration<double, std::micro>;
		if (limit <= limit.zero())
			us_ = 0;
		else if (microseconds(limit).count() < 9e18)
			us_ = static_cast<uint64_t>(std::chrono::ceil<std::chrono::microseconds>(limit).count());
	}
	/* No limit. */
	budget() noexcept = default;

	uint64_t us() const noexcept { return us_; }

private:
	uint64_t us_ = UINT64_MAX;
};

/* No limit: until the function returns, or calls pause(). */
inline const budget forever;

/* How a function is launched, beside what it is and for how long:
 *
 *     inger::launch(decode, 10ms, inger::options().stack_size(16 << 20).reclaim_heap()); */
class options {
public:
	options() noexcept { options_.size_bytes = sizeof options_; }

	/* On a stack of at least `size_bytes`, rounded up to whole pages; otherwise it has 2 MiB. */
	options &stack_size(std::size_t size_bytes) noexcept {
		options_.stack_size_bytes = size_bytes;
		return *this;
	}
	/* Its budgets, those of its resumes included, are processor time of the kernel thread that runs it, not elapsed time. */
	options &cpu_time() noexcept {
		options_.counts_cpu_time = true;
		return *this;
	}
	/* What it has allocated and not freed is freed when its linger is destroyed or cancelled in mid-run. For functions of which
	 * nothing outside uses that: linger_cancel_reclaim() in libinger.h says what counts, and what has to hold. Of a function
	 * that is cancelled with the one around it, that one's options decide. */
	options &reclaim_heap() noexcept {
		options_.tracks_heap = true;
		return *this;
	}
	/* The same for the descriptors that it has opened: they are closed. */
	options &close_descriptors() noexcept {
		options_.tracks_descriptors = true;
		return *this;
	}

	const linger_options_t &c_options() const noexcept { return options_; }
	bool reclaims() const noexcept { return options_.tracks_heap || options_.tracks_descriptors; }

private:
	linger_options_t options_ = linger_options_t();
};

namespace detail {

struct nothing {};
template <class Result> using value_of = std::conditional_t<std::is_void_v<Result>, nothing, Result>;

[[noreturn]] inline void fail(int error) {
	throw std::system_error(error, std::generic_category(), linger_error());
}

/* What is needed to call the function, and what it leaves. */
template <class Result> struct call {
	std::variant<std::monostate, value_of<Result>, std::exception_ptr> outcome;

	virtual void run() = 0;
	/* Gives the memory back; what is in it is destroyed, unless the function is in the middle of using it. */
	virtual void dispose(bool is_destroyed) noexcept = 0;

	static void enter(void *self) noexcept { static_cast<call *>(self)->run(); }

protected:
	~call() = default;
};

template <class Result, class Function> struct call_of final : call<Result> {
	std::optional<Function> function;

	template <class Given> explicit call_of(Given &&given) : function(std::forward<Given>(given)) {}

	/* Runs as the function: it can be stopped anywhere in here. Its captures are destroyed at its end. */
	void run() override {
		try {
			if constexpr (std::is_void_v<Result>) {
				std::move (*function)();
				this->outcome.template emplace<1>();
			} else {
				this->outcome.template emplace<1>(std::move (*function)());
			}
		} catch (...) {
			this->outcome.template emplace<2>(std::current_exception());
		}
		function.reset();
	}

	void dispose(bool is_destroyed) noexcept override {
		if (is_destroyed)
			delete this;
		else
			::operator delete(static_cast<void *>(this), std::align_val_t(alignof(call_of)));
	}

	static void *operator new(std::size_t size) { return ::operator new(size, std::align_val_t(alignof(call_of))); }
	static void operator delete(void *self) { ::operator delete(self, std::align_val_t(alignof(call_of))); }
};

} // namespace detail

/* A function that was launched: finished, or where it stopped. Destroying it cancels the function: it never goes on, and
 * the destructors of what lies on its stack and in its captures do not run. What they hold (memory, descriptors, locks) is
 * lost, but for what its options tell; so nothing outside may use what lies there.
 *
 * Any kernel thread may resume it, one at a time. */
template <class Result> class [[nodiscard]] linger {
	static_assert(!std::is_reference_v<Result>, "a function's result is kept as a value: return a pointer");

public:
	linger() noexcept = default;
	linger(linger &&other) noexcept
		: handle_(std::exchange(other.handle_, linger_t())), call_(std::exchange(other.call_, nullptr)),
		  is_started_(other.is_started_), is_reclaimed_(other.is_reclaimed_) {}
	linger &operator=(linger &&other) noexcept {
		if (this != &other) {
			cancel();
			handle_ = std::exchange(other.handle_, linger_t());
			call_ = std::exchange(other.call_, nullptr);
			is_started_ = other.is_started_;
			is_reclaimed_ = other.is_reclaimed_;
		}
		return *this;
	}
	~linger() { cancel(); }

	/* Has the function returned, or thrown? */
	bool is_complete() const noexcept { return handle_.is_complete; }
	/* Did it stop last by itself, by pause()? */
	bool is_yielded() const noexcept { return handle_.is_yielded; }
	/* Is there something to resume? */
	bool is_continuation() const noexcept { return handle_.continuation; }

	/* Lets the function go on until it returns, calls pause(), or `limit` is over. Does nothing if it is complete, or if
	 * `limit` is zero. Throws std::system_error; then the function is still there, unless the code is
	 * operation_canceled. */
	linger &resume(budget limit) {
		is_started_ = is_started_ || limit.us();
		linger_resume(&handle_, limit.us());
		if (handle_.error)
			fail();
		return *this;
	}

	/* The function's result, moved out, once; or the exception that it has thrown. The function is complete: otherwise this
	 * throws std::system_error with operation_in_progress. */
	Result get() {
		if (!handle_.is_complete || !call_)
			throw std::system_error(std::make_error_code(std::errc::operation_in_progress), "the function has not returned");
		std::unique_ptr<detail::call<Result>, destroy> call(std::exchange(call_, nullptr));
		if (auto *exception = std::get_if<2>(&call->outcome))
			std::rethrow_exception(std::move(*exception));
		if constexpr (!std::is_void_v<Result>)
			return std::get<1>(std::move(call->outcome));
	}

	/* Writes where the function stands to a file descriptor: a line for each call that has not returned, innermost first.
	 * Throws std::system_error, with invalid_argument if it has not started, or has returned. */
	void backtrace(int fd) {
		if (int error = linger_backtrace(&handle_, fd)) {
			if (handle_.error)
				fail();
			detail::fail(error);
		}
	}

	/* As the destructor does. */
	void cancel() noexcept {
		is_reclaimed_ ? linger_cancel_reclaim(&handle_) : linger_cancel(&handle_);
		if (call_)
			std::exchange(call_, nullptr)->dispose(handle_.is_complete || !is_started_);
	}

private:
	template <class Function>
	friend auto launch(Function &&, budget, const options &) -> linger<std::invoke_result_t<std::decay_t<Function>>>;

	struct destroy {
		void operator()(detail::call<Result> *call) const noexcept { call->dispose(true); }
	};

	[[noreturn]] void fail() {
		int error = handle_.error;
		if (!handle_.continuation)
			cancel();
		detail::fail(error);
	}

	linger_t handle_ = linger_t();
	detail::call<Result> *call_ = nullptr;
	bool is_started_ = false;
	bool is_reclaimed_ = false;
};

/* Calls `function()` on the calling kernel thread, until it returns, calls pause(), or `limit` is over. The function is
 * copied or moved; what its captures refer to stays valid until the linger is complete or cancelled. A zero `limit`
 * prepares the function without running it. Throws std::system_error, and std::bad_alloc. */
template <class Function>
auto launch(Function &&function, budget limit = forever, const options &with = options())
	-> linger<std::invoke_result_t<std::decay_t<Function>>> {
	using result = std::invoke_result_t<std::decay_t<Function>>;
	auto *call = new detail::call_of<result, std::decay_t<Function>>(std::forward<Function>(function));
	linger<result> made;
	made.call_ = call;
	made.is_reclaimed_ = with.reclaims();
	made.handle_ = linger_launch_with(
		&with.c_options(), detail::call<result>::enter, limit.us(), static_cast<detail::call<result> *>(call));
	made.is_started_ = limit.us() && (!made.handle_.error || made.handle_.error == ECANCELED);
	if (made.handle_.error)
		made.fail();
	return made;
}

/* Calls `function()` for at most `limit`, and cancels it if it has not returned by then, or has called pause(). Returns its
 * result, if it returned in time; for a function without a result, whether it did. Throws what the function
 * throws, std::system_error and std::bad_alloc. */
template <class Function> auto timeout(Function &&function, budget limit, const options &with = options()) {
	auto launched = launch(std::forward<Function>(function), limit, with);
	using result = decltype(launched.get());
	if constexpr (std::is_void_v<result>) {
		if (launched.is_complete())
			launched.get();
		return launched.is_complete();
	} else {
		return launched.is_complete() ? std::optional<result>(launched.get()) : std::nullopt;
	}
}

/* Stops the function that calls it; its launcher goes on. Outside of functions it is POSIX pause(2). */
inline void pause() { linger_pause(); }

/* While one lives the calling function is not preempted: for code that takes a lock which the launcher takes too. */
class [[nodiscard]] critical_section {
public:
	critical_section() noexcept { linger_defer(); }
	~critical_section() { linger_undefer(); }
	critical_section(const critical_section &) = delete;
	critical_section &operator=(const critical_section &) = delete;
};

/* How many functions can be unfinished at the same time: an upper bound until it was met. */
inline std::size_t concurrency_limit() { return linger_concurrency_limit(); }

/* What the library has done in this process so far. */
inline linger_stats_t stats() {
	linger_stats_t stats;
	linger_stats(&stats, sizeof stats);
	return stats;
}

} // namespace inger

#endif
