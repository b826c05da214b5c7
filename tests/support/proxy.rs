//! A TCP proxy that spoils what passes: between clients, coordinator and one node. Ends with the value.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What is done to every connection, in both directions. Bytes are counted from its beginning, each way.
#[derive(Debug, Clone, Copy)]
pub enum Spoil {
    /// It is closed at once.
    Refuse,
    /// Every piece of at most 64 KiB waits so long.
    Slow(Duration),
    /// Nothing passes after so many bytes, and nothing is closed.
    Hang(u64),
    /// It is cut after so many bytes.
    Cut(u64),
    /// One bit of this byte, and of every so-manieth after it, is flipped.
    Flip { first: u64, every: u64 },
    /// This byte is left out.
    Drop(u64),
    /// Times that are told are so many seconds later: the header `Date`, and `clock` in JSON.
    Clock(i64),
}

/// The proxy.
pub struct Proxy {
    /// Where it listens.
    pub url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    target: Option<SocketAddr>,
    spoil: Option<Spoil>,
    /// Raised by every change: a connection lives in one of them.
    era: u64,
    closed: bool,
    sockets: Vec<TcpStream>,
}

impl Proxy {
    /// A proxy for what serves at a URL.
    pub fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Self { url: format!("http://{address}"), address, shared: Arc::default() };
        proxy.lead_to(url);
        let shared = Arc::clone(&proxy.shared);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if shared.lock().closed {
                    return;
                }
                if let Ok(socket) = socket {
                    // A target that refuses closes the connection, as it would without a proxy.
                    let _ = shared.serve(&socket);
                }
            }
        });
        proxy
    }

    /// From now on it leads there.
    pub fn lead_to(&self, url: &str) {
        let address = url.strip_prefix("http://").unwrap().parse().unwrap();
        self.change(|state| state.target = Some(address));
    }

    /// From now on it spoils, or no longer does. What is open is cut.
    pub fn spoil(&self, how: Option<Spoil>) {
        self.change(|state| state.spoil = how);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.lock();
        change(&mut state);
        state.era += 1;
        for socket in state.sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|state| state.closed = true);
        // So that it looks.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Begins to pass on what comes over a connection.
    fn serve(self: &Arc<Self>, here: &TcpStream) -> std::io::Result<()> {
        let (target, spoil, era) = {
            let state = self.lock();
            (state.target, state.spoil, state.era)
        };
        if matches!(spoil, Some(Spoil::Refuse)) {
            return Ok(());
        }
        let there = TcpStream::connect(target.unwrap())?;
        let mut state = self.lock();
        if state.era != era {
            return Ok(());
        }
        state.sockets.extend([here.try_clone()?, there.try_clone()?]);
        drop(state);
        for (from, to) in [(here.try_clone()?, there.try_clone()?), (there.try_clone()?, here.try_clone()?)] {
            from.set_nodelay(true)?;
            let shared = Arc::clone(self);
            std::thread::spawn(move || {
                let _ = shared.pump(&from, &to, spoil, era);
                // A cut goes both ways, an end one way.
                let both = matches!(spoil, Some(Spoil::Cut(_)));
                let _ = to.shutdown(if both { Shutdown::Both } else { Shutdown::Write });
            });
        }
        Ok(())
    }

    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, spoil: Option<Spoil>, era: u64) -> std::io::Result<()> {
        let (mut buffer, mut passed) = (vec![0; 64 << 10], 0);
        loop {
            let got = from.read(&mut buffer)? as u64;
            if got == 0 {
                return Ok(());
            }
            let mut piece = buffer[..got as usize].to_vec();
            match spoil {
                None | Some(Spoil::Refuse) => {}
                Some(Spoil::Slow(wait)) => self.wait(era, Some(Instant::now() + wait)),
                Some(Spoil::Hang(after)) if passed + got > after => self.wait(era, None),
                Some(Spoil::Cut(after)) if passed + got > after => return from.shutdown(Shutdown::Both),
                Some(Spoil::Hang(_) | Spoil::Cut(_)) => {}
                Some(Spoil::Flip { first, every }) => {
                    let hit = |at: &u64| *at >= first && (*at - first).is_multiple_of(every);
                    for at in (passed..passed + got).filter(hit) {
                        piece[(at - passed) as usize] ^= 1;
                    }
                }
                Some(Spoil::Drop(at)) if (passed..passed + got).contains(&at) => {
                    piece.remove((at - passed) as usize);
                }
                Some(Spoil::Drop(_)) => {}
                Some(Spoil::Clock(seconds)) => shift_times(&mut piece, seconds),
            }
            passed += got;
            to.write_all(&piece)?;
        }
    }

    /// Waits until then, or for ever, or until another era.
    fn wait(&self, era: u64, until: Option<Instant>) {
        let mut state = self.lock();
        while state.era == era {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return;
            }
            let left = left.unwrap_or(Duration::from_secs(3600));
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

/// Makes times later that are whole in a piece; its length stays.
fn shift_times(piece: &mut [u8], seconds: i64) {
    type Form = (&'static [u8], &'static str, usize);
    const FORMS: [Form; 2] = [(b"date: ", "%a, %d %b %Y %H:%M:%S GMT", 29), (b"\"clock\":\"", "%Y-%m-%dT%H:%M:%S", 19)];
    for (before, form, length) in FORMS {
        let starts: Vec<usize> = (0..piece.len()).filter(|at| piece[*at..].starts_with(before)).collect();
        for start in starts.into_iter().map(|at| at + before.len()) {
            let Some(text) = piece.get(start..start + length).and_then(|text| std::str::from_utf8(text).ok()) else {
                continue;
            };
            let told = jiff::civil::DateTime::strptime(form, text).unwrap();
            let later = told.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
            piece[start..start + length].copy_from_slice(later.strftime(form).to_string().as_bytes());
        }
    }
}
