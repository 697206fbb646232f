//! `iotflow broker backup` and `restore`: all that makes a broker this broker, in one archive.
//!
//! ```text
//! database ─► document ──┐                                   ┌─► document ─► database, in one transaction
//! broker.json, secrets ──┼─► create ─► archive ─► restore ───┤
//! certs, access, sessions ┘     (reach: the database is there, whether the broker runs or not)
//!                                                            └─► stage (checked) ─► place (put, kept, taken back)
//! ```
//!
//! Guarantees: what comes out of an archive is parsed as strictly as what comes from the network, all of it before anything is
//! changed; what was there before is kept; an archive that was made, and one that was restored, is on record.

pub(super) mod create;

pub(super) mod restore;

mod reach;

mod document;

mod stage;

mod place;
