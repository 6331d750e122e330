//! `include/libinger.h` is what cbindgen makes of `src/ffi.rs`. `INGER_REGENERATE=1` writes it anew.

const PATH: &str = "include/libinger.h";

fn generate() -> String {
    let config = cbindgen::Config::from_file("cbindgen.toml").expect("cbindgen.toml is valid");
    let mut header = Vec::new();
    cbindgen::Builder::new()
        .with_src("src/ffi.rs")
        .with_config(config)
        .generate()
        .expect("cbindgen reads src/ffi.rs")
        .write(&mut header);
    to_plain_comments(&String::from_utf8(header).expect("a header is text"))
}

/// Headings as C programmers write them, and no empty lines where cbindgen joins its parts.
fn to_plain_comments(header: &str) -> String {
    let mut plain = String::new();
    let mut lines = header.trim_start().lines().map(str::trim_end).peekable();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix(" * # ") {
            plain += &format!(" * {heading}:\n");
            lines.next_if_eq(&" *");
        } else {
            plain += line;
            plain.push('\n');
            while line.is_empty() && lines.next_if_eq(&"").is_some() {}
        }
    }
    plain
}

#[test]
fn header_is_current() {
    let generated = generate();
    if std::env::var_os("INGER_REGENERATE").is_some() {
        std::fs::write(PATH, &generated).expect("the header can be written");
    }
    let committed = std::fs::read_to_string(PATH).expect("the header is committed");
    assert!(committed == generated, "{PATH} is stale: INGER_REGENERATE=1 cargo test --test header");
}
