//! An asymmetric coroutine: the safe use of the switch.

use crate::Stack;
use crate::raw::{self, Context};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

/// The code of the only kind of leave there is here.
const SUSPENDED: usize = 1;

/// What a [`Coroutine`] did when it was resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<Yield, Return> {
    /// It suspended itself, and can be resumed.
    Yield(Yield),
    /// It is done.
    Return(Return),
}

/// A function on a stack of its own, that can suspend itself and be resumed.
///
/// Each [`resume`](Coroutine::resume) hands an `Input` in and gets a `Yield` or the final `Return`
/// out. Dropping a suspended coroutine unwinds its stack, so that its destructors run; a program
/// built with `panic = "abort"` ends there instead.
///
/// All types are `'static`, because a coroutine may be leaked: then its destructors never run.
///
/// A coroutine stays on the kernel thread that made it, since its frames may hold what is not `Send`:
///
/// ```compile_fail,E0277
/// fn send<T: Send>(_: T) {}
/// let stack = libtimetravel::Stack::new(64 * 1024).unwrap();
/// send(libtimetravel::Coroutine::<(), (), ()>::new(stack, |_, ()| ()));
/// ```
///
/// # Example
///
/// ```
/// use libtimetravel::{Coroutine, Stack, Step};
///
/// let stack = Stack::new(64 * 1024)?;
/// let mut sum = Coroutine::new(stack, |suspender, first: u32| {
///     let second = suspender.suspend("one more");
///     first + second
/// });
/// assert_eq!(sum.resume(40), Step::Yield("one more"));
/// assert_eq!(sum.resume(2), Step::Return(42));
/// # std::io::Result::Ok(())
/// ```
pub struct Coroutine<Input: 'static, Yield: 'static, Return: 'static> {
    shared: NonNull<Shared<Input, Yield, Return>>, // owned: a leaked Box, so !Send
    stack: Stack,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh,
    Suspended,
    Done,
}

/// Seen from inside a [`Coroutine`]: the way out.
///
/// Neither `Send` nor `Sync`: only the coroutine that it was made for can use it.
pub struct Suspender<Input: 'static, Yield: 'static> {
    host: *mut Context,
    func: *mut Context,
    input: *const Cell<Option<Input>>,
    output: *const Cell<Option<Yield>>,
}

type Body<Input, Yield, Return> = Box<dyn FnOnce(&Suspender<Input, Yield>, Input) -> Return>;

/// What both sides see. Each cell is written by one side and emptied by the other.
struct Shared<Input: 'static, Yield: 'static, Return: 'static> {
    host: UnsafeCell<Context>,
    func: UnsafeCell<Context>,
    body: Cell<Option<Body<Input, Yield, Return>>>, // until the first resume
    input: Cell<Option<Input>>,                     // empty at a resume: unwind
    output: Cell<Option<Yield>>,
    result: Cell<Option<std::thread::Result<Return>>>,
}

/// The payload that unwinds a coroutine which is dropped. Nobody else can make one.
struct Cancelled;

impl<Input: 'static, Yield: 'static, Return: 'static> Coroutine<Input, Yield, Return> {
    /// Makes a coroutine that will run `body` on `stack`; nothing runs until it is resumed.
    ///
    /// `body` gets a [`Suspender`] and the first input.
    pub fn new<F>(stack: Stack, body: F) -> Self
    where
        F: FnOnce(&Suspender<Input, Yield>, Input) -> Return + 'static,
    {
        let shared = Shared {
            host: UnsafeCell::new(Context::new(0)),
            func: UnsafeCell::new(Context::new(0)),
            body: Cell::new(Some(Box::new(body))),
            input: Cell::new(None),
            output: Cell::new(None),
            result: Cell::new(None),
        };
        Coroutine { shared: NonNull::from(Box::leak(Box::new(shared))), stack, state: State::Fresh }
    }

    /// Runs the coroutine until it suspends itself or returns.
    ///
    /// # Panics
    ///
    /// If the coroutine panics, with its payload. If it is done already.
    pub fn resume(&mut self, input: Input) -> Step<Yield, Return> {
        assert!(!self.is_done(), "resumed a coroutine that is done");
        self.shared().input.set(Some(input));
        self.run();
        match self.shared().result.take() {
            None => Step::Yield(self.shared().output.take().expect("suspended without a value")),
            Some(Ok(value)) => Step::Return(value),
            Some(Err(payload)) => resume_unwind(payload),
        }
    }

    /// Whether the coroutine has returned or panicked.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn shared(&self) -> &Shared<Input, Yield, Return> {
        // SAFETY: `new` leaked it, and only drop frees it. The coroutine uses shared references too.
        unsafe { self.shared.as_ref() }
    }

    /// Enters or reenters, and notes how that ended.
    fn run(&mut self) {
        let (host, func) = (self.shared().host.get(), self.shared().func.get());
        // SAFETY: the contexts and the stack live until drop, which comes after the function has left,
        // and are this coroutine's; `&mut self` says that it does not run; `entry` does not unwind,
        // and returns `host`. A thread pointer of 0 leaves that alone.
        let code = unsafe {
            match self.state {
                State::Fresh => {
                    let shared = self.shared.as_ptr().cast();
                    raw::enter(host, func, self.stack.top(), entry::<Input, Yield, Return>, shared)
                }
                State::Suspended => raw::reenter(host, func),
                State::Done => unreachable!(),
            }
        };
        self.state = if code == raw::COMPLETED { State::Done } else { State::Suspended };
    }
}

/// The first frame of a coroutine's stack; `arg` is its `Shared`.
unsafe extern "C" fn entry<Input: 'static, Yield: 'static, Return: 'static>(arg: *mut c_void) -> *mut Context {
    // SAFETY: `run` passes the coroutine's own, which outlives this call. All of it is cells.
    let shared = unsafe { &*arg.cast::<Shared<Input, Yield, Return>>() };
    let suspender =
        Suspender { host: shared.host.get(), func: shared.func.get(), input: &shared.input, output: &shared.output };
    let body = shared.body.take().expect("entered twice");
    let input = shared.input.take().expect("entered without an input");
    let result = catch_unwind(AssertUnwindSafe(|| body(&suspender, input)));
    shared.result.set(Some(result));
    suspender.host
}

impl<Input: 'static, Yield: 'static> Suspender<Input, Yield> {
    /// Suspends the coroutine: its `resume` returns `value`, and the next one's input is returned here.
    ///
    /// # Cancellation
    ///
    /// If the coroutine is dropped meanwhile, this unwinds, without calling the panic hook. Code that
    /// catches that and suspends again is unwound again, from there.
    ///
    /// To suspend in a destructor that runs because of a panic leaves the kernel thread
    /// [`panicking`](std::thread::panicking) meanwhile, in the eyes of the standard library.
    pub fn suspend(&self, value: Yield) -> Input {
        // SAFETY: the cells are in the `Shared` of the coroutine that runs this, which is alive.
        let (input, output) = unsafe { (&*self.input, &*self.output) };
        output.set(Some(value));
        // SAFETY: both contexts are those of the latest `enter` or `reenter`: only the coroutine's own
        // stack can reach the suspender, which is neither Send nor Sync, nor 'static where borrowed.
        unsafe { raw::leave(self.func, self.host, SUSPENDED) };
        input.take().unwrap_or_else(|| resume_unwind(Box::new(Cancelled)))
    }
}

impl<Input: 'static, Yield: 'static, Return: 'static> Drop for Coroutine<Input, Yield, Return> {
    /// Unwinds a suspended coroutine. A panic in it that is not the unwinding itself goes on in the
    /// caller, unless that is unwinding already.
    fn drop(&mut self) {
        while self.state == State::Suspended {
            drop(self.shared().output.take());
            self.run();
        }
        let result = self.shared().result.take();
        // SAFETY: `new` leaked it from a Box, and nothing runs on the stack any more that could use it.
        drop(unsafe { Box::from_raw(self.shared.as_ptr()) });
        if let Some(Err(payload)) = result {
            rethrow_unless_cancelled(payload);
        }
    }
}

fn rethrow_unless_cancelled(payload: Box<dyn Any + Send>) {
    if !payload.is::<Cancelled>() && !std::thread::panicking() {
        resume_unwind(payload);
    }
}

impl<Input, Yield, Return> fmt::Debug for Coroutine<Input, Yield, Return> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coroutine").field("stack", &self.stack).field("state", &self.state).finish_non_exhaustive()
    }
}

impl<Input, Yield> fmt::Debug for Suspender<Input, Yield> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suspender").finish_non_exhaustive()
    }
}
