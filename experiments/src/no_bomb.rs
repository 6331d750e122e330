//! In place of bomb.rs, where libpng is missing.

use crate::Options;
use clap::Args;

const MISSING: &str = "built without libpng, which pkg-config does not find (Debian: libpng-dev, pkg-config)";

#[derive(Args)]
pub(crate) struct Decode {}

pub(crate) fn run(_options: &Options) -> Result<(), String> {
    Err(MISSING.to_owned())
}

pub(crate) fn work(_decode: &Decode) -> Result<(), String> {
    Err(MISSING.to_owned())
}
