//! A set of signals.

use crate::Signal;
use core::fmt;

/// A set of signals, laid out as the kernel's 64-bit mask: bit `n - 1` stands for signal `n`.
///
/// libc's `sigset_t` is 128 bytes; its first 8 bytes are this set.
///
/// # Examples
/// ```
/// use libsignal::{Signal, SignalSet};
///
/// let mut set = SignalSet::single(Signal::ALRM);
/// set.insert(Signal::USR1);
/// assert!(set.contains(Signal::ALRM));
/// assert_eq!(format!("{set:?}"), "{SIGUSR1, SIGALRM}");
/// ```
#[derive(Copy, Clone, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct SignalSet(u64);

impl SignalSet {
    /// Returns the set that holds no signal.
    pub const fn empty() -> SignalSet {
        SignalSet(0)
    }

    /// Returns the set of all 64 signals.
    pub const fn full() -> SignalSet {
        SignalSet(!0)
    }

    /// Returns the set of one signal.
    pub const fn single(signal: Signal) -> SignalSet {
        // Neither operation wraps, as a signal's number is 1 to 64. These forms have no overflow
        // check that could panic.
        let index = (signal.number() as u32).wrapping_sub(1);
        SignalSet(1u64.wrapping_shl(index))
    }

    /// Returns the set of the signals whose bits are set; bit `n - 1` stands for signal `n`.
    pub const fn from_bits(bits: u64) -> SignalSet {
        SignalSet(bits)
    }

    /// Returns the kernel's representation; bit `n - 1` stands for signal `n`.
    pub const fn bits(&self) -> u64 {
        self.0
    }

    /// Adds a signal.
    pub const fn insert(&mut self, signal: Signal) {
        self.0 |= SignalSet::single(signal).0;
    }

    /// Takes a signal out.
    pub const fn remove(&mut self, signal: Signal) {
        self.0 &= !SignalSet::single(signal).0;
    }

    /// Tells whether the signal is in the set.
    pub const fn contains(&self, signal: Signal) -> bool {
        self.0 & SignalSet::single(signal).0 != 0
    }

    /// Tells whether no signal is in the set.
    pub const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Returns the signals that are in either set.
    pub const fn union(&self, other: &SignalSet) -> SignalSet {
        SignalSet(self.0 | other.0)
    }

    /// Returns the signals of the set in ascending order.
    pub const fn iter(&self) -> Iter {
        Iter(self.0)
    }
}

impl FromIterator<Signal> for SignalSet {
    fn from_iter<I: IntoIterator<Item = Signal>>(signals: I) -> SignalSet {
        let mut set = SignalSet::empty();
        for signal in signals {
            set.insert(signal);
        }
        set
    }
}

impl IntoIterator for &SignalSet {
    type Item = Signal;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self).finish()
    }
}

/// The signals of a [`SignalSet`] in ascending order.
#[derive(Clone, Debug)]
pub struct Iter(u64); // the bits of the signals not returned yet

impl Iterator for Iter {
    type Item = Signal;

    fn next(&mut self) -> Option<Signal> {
        // Of no bit at all, 64 are zero: `Signal::new(65)` is `None`.
        let signal = Signal::new(self.0.trailing_zeros() as i32 + 1)?;
        self.0 &= self.0 - 1;
        Some(signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_kernels() {
        let mut set = SignalSet::empty();
        set.insert(Signal::HUP);
        set.insert(Signal::new(64).unwrap());
        assert_eq!(set.bits(), 1 | 1 << 63);
        set.remove(Signal::HUP);
        assert_eq!(set, SignalSet::from_bits(1 << 63));
        set.remove(Signal::HUP);
        assert_eq!(set, SignalSet::from_bits(1 << 63));
    }

    #[test]
    fn full_holds_every_signal_once() {
        assert_eq!(SignalSet::full().iter().count(), 64);
        assert_eq!(SignalSet::full().iter().collect::<SignalSet>(), SignalSet::full());
        assert_eq!(SignalSet::empty().iter().next(), None);
        assert!(SignalSet::empty().is_empty());
    }

    #[test]
    fn union_holds_both() {
        let both = SignalSet::single(Signal::INT).union(&SignalSet::single(Signal::TERM));
        assert!(both.contains(Signal::INT) && both.contains(Signal::TERM));
        assert!(!both.contains(Signal::ALRM));
        assert_eq!(format!("{both:?}"), "{SIGINT, SIGTERM}");
    }
}
