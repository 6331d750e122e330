//! Builds the C part.

fn main() {
    // Before the C compiler complains of headers.
    let of_target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if (of_target("OS"), of_target("ARCH"), of_target("ENV")) != ("linux".into(), "x86_64".into(), "gnu".into()) {
        println!(
            "cargo::error=x86-64 Linux with glibc is needed: other C libraries, musl among them, cannot be copied"
        );
        return;
    }
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=include");
    let mut sources: Vec<_> = std::fs::read_dir("src")
        .expect("the source folder is part of the crate")
        .map(|entry| entry.expect("a readable source folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c" || extension == "S"))
        .collect();
    sources.sort();
    let mut build = cc::Build::new();
    if std::env::var_os("CARGO_FEATURE_TESTING").is_some() {
        build.define("GOTCHA_TESTING", None);
    }
    build
        .files(sources)
        .include("include")
        .std("gnu11")
        .flag("-fvisibility=hidden")
        // One thread-local struct, reached without a call, from executables and shared objects alike.
        .flag("-ftls-model=initial-exec")
        // Code that runs in a signal handler or on a virtual TCB keeps to what is saved there.
        .flag("-fno-stack-protector")
        .flag("-fasynchronous-unwind-tables")
        .opt_level(2)
        .warnings(true)
        .extra_warnings(true)
        .compile("gotcha");
    println!("cargo::metadata=lib={}", std::env::var("OUT_DIR").expect("set by cargo"));
    println!("cargo::metadata=include={}/include", std::env::var("CARGO_MANIFEST_DIR").expect("set by cargo"));
}
