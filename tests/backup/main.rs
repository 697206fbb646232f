//! Backups: what goes in comes out, and what was made to do harm does none.

mod changed;
mod forge;
mod hostile;
mod place;
mod round_trip;
