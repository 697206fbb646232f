//! `iotflow token`: credentials of operators and programs.
//!
//! ```text
//! create, list, revoke ──► manage ──► identity::tokens
//! inspect (token or JWT on standard input) ──► inspect ──► identity::tokens, identity::jwt
//! ```

mod manage;

mod inspect;

mod command;

pub(super) use command::{command, run};
