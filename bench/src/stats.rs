//! What is said of many readings.

/// Readings in ascending order; there is at least one.
#[derive(Clone, Debug)]
pub struct Readings(Vec<f64>);

impl Readings {
    /// None: there are none.
    pub fn new(mut readings: Vec<f64>) -> Option<Self> {
        readings.sort_by(f64::total_cmp);
        (!readings.is_empty()).then_some(Readings(readings))
    }

    /// The smallest reading that `percent` of all readings do not exceed.
    pub fn percentile(&self, percent: f64) -> f64 {
        // A product that would be whole if it were exact is.
        let rank = (percent * self.0.len() as f64 / 100.0 - 1e-6).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    /// The middle one; of an even number, the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let count = self.0.len();
        (self.0[(count - 1) / 2] + self.0[count / 2]) / 2.0
    }

    /// All of them.
    pub fn all(&self) -> &[f64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(numbers: impl IntoIterator<Item = u32>) -> Readings {
        Readings::new(numbers.into_iter().map(f64::from).collect()).unwrap()
    }

    #[test]
    fn medians() {
        assert_eq!(readings([7]).median(), 7.0);
        assert_eq!(readings([9, 1, 5]).median(), 5.0);
        assert_eq!(readings([9, 1, 5, 6]).median(), 5.5);
        assert!(Readings::new(Vec::new()).is_none());
    }

    #[test]
    fn percentiles() {
        let thousand = readings(1..=1000);
        assert_eq!(thousand.percentile(0.0), 1.0);
        assert_eq!(thousand.percentile(1.0), 10.0);
        assert_eq!(thousand.percentile(99.9), 999.0);
        assert_eq!(thousand.percentile(100.0), 1000.0);
        assert_eq!(readings([3]).percentile(99.9), 3.0);
    }
}
