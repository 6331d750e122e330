//! `bindings.rs` is what bindgen makes of the C headers. `GOTCHA_REGENERATE=1` writes it anew.

#[test]
fn bindings_are_current() {
    let generate = || {
        bindgen::Builder::default()
            .header("src/control.h")
            .header("include/libgotcha.h")
            .clang_arg("-Iinclude")
            .allowlist_item("libgotcha_.*|LIBGOTCHA_.*")
            .blocklist_var("libgotcha_tls")
            .blocklist_file(".*/usr/include/.*")
            .raw_line("#![allow(missing_docs, non_camel_case_types)]")
            .raw_line("use libc::{sigaction, siginfo_t, sigset_t, stack_t};")
            .use_core()
            .rust_target(bindgen::RustTarget::stable(85, 0).expect("a known version"))
            .rust_edition(bindgen::RustEdition::Edition2024)
            .prepend_enum_name(false)
            .layout_tests(true)
            .generate()
            .expect("bindgen reads the headers")
            .to_string()
    };
    let Ok(generated) = std::panic::catch_unwind(generate) else {
        assert!(std::env::var_os("INGER_CI").is_none(), "libclang is missing");
        println!("skipped: libclang is missing");
        return;
    };
    if std::env::var_os("GOTCHA_REGENERATE").is_some() {
        std::fs::write("bindings.rs", &generated).expect("bindings.rs can be written");
    }
    let committed = std::fs::read_to_string("bindings.rs").expect("bindings.rs is committed");
    assert!(
        committed == generated,
        "bindings.rs is stale: GOTCHA_REGENERATE=1 cargo test -p libgotcha --test bindings"
    );
}
