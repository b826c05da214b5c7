//! The one way by which progress, counts and warnings leave the library.

use std::fmt;
use std::sync::Arc;

/// What a use case reports while it works. All numbers are increments, in bytes unless the name says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// More work is known: files and plaintext bytes that will be handled.
    Found {
        /// Files.
        files: u64,
        /// Plaintext bytes; nothing when the length is unknown.
        bytes: Option<u64>,
    },
    /// Work on this file has begun.
    File(String),
    /// Plaintext bytes were read from the source.
    Read(u64),
    /// Bytes reached a node, every copy counted.
    Sent(u64),
    /// Plaintext bytes whose copies have all been proved now; never those of [`Event::Here`].
    Verified(u64),
    /// Plaintext bytes that the nodes held already.
    Here(u64),
    /// Plaintext bytes were proved and written at their destination.
    Written(u64),
    /// Files are done.
    FilesDone(u64),
    /// A use case took another way, and the result is still right: one line for people.
    Notice(String),
}

/// Receives [`Event`]s. Called from many tasks; must not block.
pub trait Monitor: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// A monitor that can be handed around.
pub type Watch = Arc<dyn Monitor>;

/// A monitor that drops everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn event(&self, _event: Event) {}
}

/// A monitor that keeps everything, for tests.
#[derive(Default)]
pub struct Recorder(std::sync::Mutex<Vec<Event>>);

impl Recorder {
    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.events()).finish()
    }
}

impl Monitor for Recorder {
    fn event(&self, event: Event) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(event);
    }
}
