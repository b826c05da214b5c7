//! What everything that serves Kubo's interface shares, the built-in node and the relay alike: the forms of answers, one
//! part out of a multipart body, bodies that must move on, one chunk or a range of it, and bounds on what is held.

pub(crate) mod answer;
pub(crate) mod block;
pub(crate) mod body;
pub(crate) mod multipart;
pub(crate) mod turns;
