//! The machine that numbers were measured on.

/// What was found.
pub struct Machine {
    /// Each with its name.
    pub facts: Vec<(&'static str, String)>,
    is_quick: bool,
    load_before: String,
}

impl Machine {
    /// Looks; `is_quick` is noted, and `limit`, how many functions there can be at a
    /// time, if it is known.
    pub fn look(is_quick: bool, limit: Option<&str>) -> Self {
        let loader = std::env::var("LIBGOTCHA_LOADER").ok();
        let limit = limit.map_or(String::new(), |limit| format!(", up to {limit} functions at a time"));
        let facts = vec![
            ("date", now()),
            ("processor", processor()),
            ("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease"))),
            ("C library", c_library()),
            ("clock", read("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
            ("engine", loader.unwrap_or("the default".to_owned()) + &limit),
            ("version", format!("inger {}, compiled {}", env!("CARGO_PKG_VERSION"), profile())),
        ];
        Machine { facts, is_quick, load_before: load() }
    }

    /// After the measurements: was the machine used for something else meanwhile?
    pub fn look_again(&mut self) {
        self.facts
            .push(("load", format!("{} before, {} after (processes that want to run)", self.load_before, load())));
        if self.is_quick {
            self.facts.push(("rounds", "few (--quick)".to_owned()));
        }
    }
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) { "without optimisation: not to be compared" } else { "with optimisation" }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or("unknown".to_owned(), |text| text.trim().to_owned())
}

fn load() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()
}

fn processor() -> String {
    let text = read("/proc/cpuinfo");
    let field = |name: &str| text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(": "));
    let is_virtual = field("flags").is_some_and(|(_, flags)| flags.split(' ').any(|flag| flag == "hypervisor"));
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    let model = field("model name").map_or("unknown", |(_, model)| model);
    format!("{model}, {count} of them{}", if is_virtual { ", virtual machine" } else { "" })
}

fn c_library() -> String {
    // SAFETY: returns a constant string.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    format!("glibc {}", version.to_string_lossy())
}

fn now() -> String {
    let mut text = [0_u8; 64];
    // SAFETY: the buffer is as long as said, and strftime ends what it writes; the others are valid for writes.
    let length = unsafe {
        let seconds = libc::time(std::ptr::null_mut());
        let mut fields: libc::tm = std::mem::zeroed();
        libc::gmtime_r(&seconds, &mut fields);
        libc::strftime(text.as_mut_ptr().cast(), text.len(), c"%Y-%m-%d %H:%M UTC".as_ptr(), &fields)
    };
    String::from_utf8_lossy(&text[..length]).into_owned()
}
