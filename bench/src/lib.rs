//! What programs that measure have in common: readings, the machine that they are of, and how they are shown.

pub mod chart;
pub mod machine;
pub mod page;
pub mod stats;
pub mod units;
