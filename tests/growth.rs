//! Nothing grows: memory, descriptors and mappings are the same after 10,000 launches and 10,000
//! reclaiming cancels of functions that hold no heap. One test, as it looks at its whole process.

use inger::{Options, launch, pause, resume};
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

#[derive(Debug, PartialEq)]
struct Usage {
    descriptors: usize,
    mappings: usize,
    resident_pages: usize,
}

fn usage() -> Usage {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    Usage {
        descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        mappings: std::fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
        resident_pages: statm.split(' ').nth(1).unwrap().parse().unwrap(),
    }
}

/// As much as what is measured with uses, and a few pages touched for the first time.
const SLACK_PAGES: usize = 64;

#[track_caller]
fn assert_does_not_grow(what: &str, mut round: impl FnMut(usize)) {
    (0..200).for_each(&mut round);
    usage();
    let before = usage();
    (0..10_000).for_each(&mut round);
    let after = usage();
    println!("{what}: {before:?}, then {after:?}");
    assert_eq!(after.descriptors, before.descriptors, "{what}: descriptors");
    assert!(after.mappings <= before.mappings, "{what}: mappings: {before:?}, then {after:?}");
    assert!(after.resident_pages <= before.resident_pages + SLACK_PAGES, "{what}: memory: {before:?}, then {after:?}");
}

/// Uses stack and thread-locals, and is stopped anywhere in it; holds no heap.
fn without_heap() {
    thread_local!(static COUNT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
    loop {
        let mut array = [0_u64; 500];
        for (index, number) in array.iter_mut().enumerate() {
            *number = std::hint::black_box(index as u64 * 31);
        }
        COUNT.set(COUNT.get() + array.iter().sum::<u64>());
        let mut text = [0_u8; 64];
        // SAFETY: the buffer is as long as said; the format takes what is passed.
        unsafe { libc::snprintf(text.as_mut_ptr().cast(), text.len(), c"%ld %g".as_ptr(), array[7], 0.5_f64) };
        std::hint::black_box(text);
    }
}

unsafe extern "C" {
    fn setlocale(category: libc::c_int, locale: *const libc::c_char) -> *mut libc::c_char;
    fn gettext(message: *const libc::c_char) -> *mut libc::c_char;
    fn tzset();
}

unsafe extern "C" fn compare(one: *const libc::c_void, other: *const libc::c_void) -> libc::c_int {
    // SAFETY: elements of the array below.
    unsafe { *one.cast::<u8>() as libc::c_int - *other.cast::<u8>() as libc::c_int }
}

const LIBRARY_CALLS: [&str; 16] = [
    "setlocale",
    "setlocale of one category",
    "newlocale",
    "iconv_open",
    "getpwnam",
    "getaddrinfo",
    "fopen",
    "tmpfile",
    "popen",
    "dlopen",
    "regcomp",
    "localtime",
    "gettext",
    "strerror",
    "qsort",
    "glob",
];

/// What the C library loads or opens for its own purposes, in functions that are cancelled later. Did it succeed?
fn call_library(name: &str) -> bool {
    let mut found = null_mut();
    let mut expression = MaybeUninit::<libc::regex_t>::uninit();
    let mut paths = MaybeUninit::<libc::glob_t>::zeroed();
    // SAFETY: calls as in their manual pages; the streams exist where a system is fit for tests.
    unsafe {
        match name {
            "setlocale" => !setlocale(libc::LC_ALL, c"C.UTF-8".as_ptr()).is_null(),
            "setlocale of one category" => !setlocale(libc::LC_CTYPE, c"C.UTF-8".as_ptr()).is_null(),
            "newlocale" => {
                let locale = libc::newlocale(libc::LC_ALL_MASK, c"C.UTF-8".as_ptr(), null_mut());
                libc::uselocale(locale);
                !locale.is_null()
            }
            "iconv_open" => libc::iconv_open(c"UTF-16".as_ptr(), c"ISO-8859-15".as_ptr()).addr() != !0,
            "getpwnam" => !libc::getpwnam(c"root".as_ptr()).is_null(),
            "getaddrinfo" => {
                libc::getaddrinfo(c"localhost".as_ptr(), c"80".as_ptr(), null(), &mut found) == 0
                    && libc::getaddrinfo(c"127.0.0.1".as_ptr(), null(), null(), &mut found) == 0
            }
            "fopen" => libc::fgetc(libc::fopen(c"/etc/passwd".as_ptr(), c"r".as_ptr())) > 0,
            "tmpfile" => libc::fputs(c"text".as_ptr(), libc::tmpfile()) >= 0,
            "popen" => libc::fgetc(libc::popen(c"echo text".as_ptr(), c"r".as_ptr())) > 0,
            "dlopen" => !libc::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW).is_null(),
            "regcomp" => libc::regcomp(expression.as_mut_ptr(), c"(a|b)*[[:alpha:]]".as_ptr(), libc::REG_EXTENDED) == 0,
            "localtime" => {
                tzset();
                !libc::localtime(&0).is_null()
            }
            "gettext" => !gettext(c"text".as_ptr()).is_null(),
            "strerror" => !libc::strerror(99_999).is_null(),
            "qsort" => {
                let mut array: Vec<u8> = (0..200_000).map(|number| (number * 31) as u8).collect();
                libc::qsort(array.as_mut_ptr().cast(), array.len(), 1, Some(compare));
                array.is_sorted()
            }
            "glob" => libc::glob(c"/etc/*".as_ptr(), 0, None, paths.as_mut_ptr()) == 0,
            _ => false,
        }
    }
}

/// What is allocated and not freed, in the process.
fn heap_bytes() -> usize {
    // SAFETY: a plain call.
    let information = unsafe { libc::mallinfo2() };
    information.uordblks + information.hblkhd
}

/// Heap that the function holds is lost, if it is not reclaimed, but no descriptors and mappings are. Prints how much
/// that is.
fn assert_library_calls_do_not_grow(options: &Options, most_lost: usize) {
    for name in LIBRARY_CALLS {
        let round = || {
            let succeeded = AtomicBool::new(false);
            let work = || {
                succeeded.store(call_library(name), Relaxed);
                pause();
            };
            let linger = options.launch(work, u64::MAX).unwrap();
            assert!(linger.yielded() && succeeded.load(Relaxed), "{name}");
            // SAFETY: nothing outside points into the function.
            unsafe { linger.reclaim() };
        };
        (0..20).for_each(|_| round());
        usage();
        let (before, heap) = (usage(), heap_bytes());
        (0..200).for_each(|_| round());
        let lost = heap_bytes().saturating_sub(heap) / 200;
        let after = usage();
        println!("{name}: {before:?}, then {after:?}; {lost} bytes of the heap each");
        assert_eq!(after.descriptors, before.descriptors, "{name}: descriptors");
        assert!(after.mappings <= before.mappings + SLACK_MAPPINGS, "{name}: {before:?}, then {after:?}");
        assert!(lost < most_lost, "{name}: {lost} bytes of the heap each");
    }
}

/// What the C library takes for a character set's conversion is the most of these.
const MOST_LOST: usize = 40_000;

/// What the caches of thread control blocks hold differs by this much, divided by the rounds.
const MOST_LOST_RECLAIMED: usize = 200;

/// The process's heap grows by a mapping now and then.
const SLACK_MAPPINGS: usize = 10;

#[test]
fn nothing_grows() {
    assert_does_not_grow("launches", |number| {
        let text = launch(|| format!("{number}"), u64::MAX).unwrap().completion().unwrap();
        assert_eq!(text.len(), number.to_string().len());
    });
    assert_does_not_grow("large launches", |number| {
        let large = [number as u8; 70_000];
        assert_eq!(launch(move || large, u64::MAX).unwrap().completion().unwrap()[69_999], number as u8);
    });
    assert_does_not_grow("pauses and resumes", |_| {
        let mut linger = launch(pause, u64::MAX).unwrap();
        resume(&mut linger, u64::MAX).unwrap();
        assert!(linger.is_completion());
    });
    assert_does_not_grow("reclaims of preempted functions", |number| {
        let linger = launch(without_heap, 5 + number as u64 % 50).unwrap();
        assert!(linger.is_continuation());
        // SAFETY: nothing outside points into the function.
        unsafe { linger.reclaim() };
    });
    assert_does_not_grow("reclaims of paused functions", |_| {
        let linger = launch(pause, u64::MAX).unwrap();
        // SAFETY: nothing outside points into the function.
        unsafe { linger.reclaim() };
    });
    assert_does_not_grow("functions that never start", |_| drop(launch(without_heap, 0).unwrap()));
    assert_does_not_grow("reclaims of nested functions", |_| {
        let linger = launch(|| drop(launch(without_heap, u64::MAX).unwrap()), 20).unwrap();
        // SAFETY: nothing outside points into the functions.
        unsafe { linger.reclaim() };
    });
    assert_library_calls_do_not_grow(&Options::new(), MOST_LOST);
    println!("And with the heap reclaimed:");
    // SAFETY: what the C library has allocated for the function nobody uses later.
    assert_library_calls_do_not_grow(&unsafe { Options::new().reclaim_heap() }, MOST_LOST_RECLAIMED);
}
