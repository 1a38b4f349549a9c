//! What was typed: the one flag table, and the manners around it.
//!
//! Nothing here looks at the world; what the words mean on this machine is the
//! business of [`config`](crate::config).

pub mod action;
pub mod args;
pub mod argv;
pub mod commands;
pub mod completion;
pub mod manual;
pub mod reports;
