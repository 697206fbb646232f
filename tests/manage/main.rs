//! `mqtt_manage.sh`, as people meet it: every line of the walk-through with the real program, what is refused, what a crash
//! leaves, and the same verbs where containers run the broker.

#[path = "../support/mod.rs"]
mod support;

mod compose;
mod containers;
mod crash;
mod hostile;
mod place;
mod secrets;
mod walk;
