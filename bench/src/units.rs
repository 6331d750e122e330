//! Numbers as they are shown.

/// What a number means.
#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Bytes.
    Bytes,
    /// Calls of something.
    Calls,
}

/// With three digits, and a unit that keeps the number short.
pub fn show(number: f64, unit: Unit) -> String {
    const NS: &[(f64, &str)] = &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")];
    const BYTES: &[(f64, &str)] = &[(1.0, "B"), (1024.0, "KiB"), (1024.0 * 1024.0, "MiB")];
    let units = match unit {
        Unit::Ns => NS,
        Unit::Bytes => BYTES,
        Unit::Calls => return format!("{number:.0}"),
    };
    let fits = |(size, _): &&(f64, &str)| number.abs() >= *size;
    let (size, name) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    let scaled = number / size;
    let digits = if scaled.abs() >= 100.0 {
        0
    } else if scaled.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(show(0.0, Unit::Ns), "0.00 ns");
        assert_eq!(show(137.4, Unit::Ns), "137 ns");
        assert_eq!(show(1_340.0, Unit::Ns), "1.34 µs");
        assert_eq!(show(25_400_000.0, Unit::Ns), "25.4 ms");
        assert_eq!(show(-1_500.0, Unit::Ns), "-1.50 µs");
        assert_eq!(show(165.0 * 1024.0, Unit::Bytes), "165 KiB");
        assert_eq!(show(100_000.0, Unit::Calls), "100000");
    }
}
