//! What must not compile: what would make a function's borrows, thread-locals or migration unsound.

#[test]
fn unsound_programs_do_not_compile() {
    let tests = trybuild::TestCases::new();
    tests.pass("tests/compile_fail/sound.rs");
    tests.compile_fail("tests/compile_fail/capture_is_not_send.rs");
    tests.compile_fail("tests/compile_fail/result_is_not_send.rs");
    tests.compile_fail("tests/compile_fail/borrow_ends_too_early.rs");
    tests.compile_fail("tests/compile_fail/borrow_is_exclusive.rs");
    tests.compile_fail("tests/compile_fail/resume_after_move.rs");
    tests.compile_fail("tests/compile_fail/linger_inside_itself.rs");
    tests.compile_fail("tests/compile_fail/static_linger_borrows.rs");
    tests.compile_fail("tests/compile_fail/lifetime_is_not_extended.rs");
    tests.compile_fail("tests/compile_fail/reclaim_is_unsafe.rs");
    tests.compile_fail("tests/compile_fail/donatable_borrows.rs");
}
