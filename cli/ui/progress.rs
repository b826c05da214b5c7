//! Progress, as measured: a line that is redrawn on a terminal, a line each 10 s elsewhere with `-v`.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytenode::monitor::{Event, Monitor, Watch};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::ui::text::{count, escaped, fitted, in_unit, plural, size, unit_of};
use crate::ui::{Level, Ui};

/// How often the line is redrawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often a line is written where there is no terminal.
const REPORT: Duration = Duration::from_secs(10);

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Put,
    Get,
}

/// Where it is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On one line of the terminal.
    Line,
    /// In the log, if people want to read more.
    Log,
}

/// Counts of what has happened so far.
#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    /// Files of which no length is known before they are read.
    endless: AtomicU64,
    files_done: AtomicU64,
    bytes: AtomicU64,
    read: AtomicU64,
    sent: AtomicU64,
    verified: AtomicU64,
    here: AtomicU64,
    written: AtomicU64,
}

/// The monitor of one put or get.
#[derive(Debug)]
pub struct Progress {
    ui: Arc<Ui>,
    name: String,
    way: Way,
    started: Instant,
    counts: Counts,
}

/// Draws while it lives; the line is gone afterwards.
#[derive(Debug)]
pub struct Drawing {
    progress: Arc<Progress>,
    bar: Option<ProgressBar>,
    ticker: tokio::task::JoinHandle<()>,
}

/// Starts to draw. Must be called within a tokio runtime.
pub fn start(ui: &Arc<Ui>, name: &str, way: Way) -> Drawing {
    let draws = ui.level > Level::Quiet && std::io::stderr().is_terminal();
    begin(ui, name, way, if draws { Place::Line } else { Place::Log })
}

/// The same without a line on the terminal, where other output may appear at any time.
pub fn start_unseen(ui: &Arc<Ui>, name: &str, way: Way) -> Drawing {
    begin(ui, name, way, Place::Log)
}

fn begin(ui: &Arc<Ui>, name: &str, way: Way, place: Place) -> Drawing {
    let name = escaped(name).into_owned();
    let progress = Arc::new(Progress { ui: ui.clone(), name, way, started: Instant::now(), counts: Counts::default() });
    let bar = (place == Place::Line).then(|| {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{wide_msg}").expect("the template is right"));
        bar
    });
    ui.set_bar(bar.clone());
    ui.set_under_way(&progress);
    let ticker = tokio::spawn(tick(progress.clone(), bar.clone()));
    Drawing { progress, bar, ticker }
}

async fn tick(progress: Arc<Progress>, bar: Option<ProgressBar>) {
    let mut interval = tokio::time::interval(if bar.is_some() { REDRAW } else { REPORT });
    interval.tick().await;
    loop {
        interval.tick().await;
        match &bar {
            Some(bar) => bar.set_message(progress.text(None, columns())),
            None => progress.ui.detail(&progress.text(None, usize::MAX)),
        }
    }
}

impl Drawing {
    /// Where the use case reports to.
    pub fn watch(&self) -> Watch {
        self.progress.clone()
    }

    /// Ends the drawing; on a terminal the last line stays, with `outcome` in the place of what was still going on.
    pub fn finish(self, outcome: &str) {
        let (progress, shown) = (self.progress.clone(), self.bar.is_some());
        drop(self);
        if shown && progress.moved() > 0 {
            progress.ui.note(&progress.text(Some(outcome), columns()));
        }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        self.ticker.abort();
        self.progress.ui.set_bar(None);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Columns of the terminal on which progress is drawn. One is left free, since some terminals wrap in the last.
fn columns() -> usize {
    crate::ui::columns(crate::ui::Stream::Err).map_or(usize::MAX, |columns| columns.saturating_sub(1))
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Progress {
    /// Bytes that are where they must be. Never more than there are, though a file may grow while it is read.
    fn done(&self) -> u64 {
        let done = match self.way {
            Way::Put => get(&self.counts.verified) + get(&self.counts.here),
            Way::Get => get(&self.counts.written) + get(&self.counts.here),
        };
        if get(&self.counts.endless) > 0 { done } else { done.min(get(&self.counts.bytes)) }
    }

    /// Bytes that had to be moved.
    fn moved(&self) -> u64 {
        match self.way {
            Way::Put => get(&self.counts.sent) + get(&self.counts.verified),
            Way::Get => get(&self.counts.written),
        }
    }

    /// `photos  1,204 files  3.1 GiB  57%  read 3.1  sent 9.2  verified 1.8  214 MiB/s`, and less where that is too wide.
    pub fn text(&self, outcome: Option<&str>, columns: usize) -> String {
        let counts = &self.counts;
        // Of what has no known length there is as much as was read.
        let read = if get(&counts.endless) > 0 { get(&counts.read) } else { 0 };
        let (total, done) = (get(&counts.bytes).max(self.done()).max(read), self.done());
        let unit = unit_of(total);
        let (files, files_done) = (get(&counts.files), get(&counts.files_done));
        let files = if files_done == 0 || files_done >= files {
            plural(files, "file")
        } else {
            format!("{} of {}", count(files_done), plural(files, "file"))
        };
        // Before the end, nothing is ever said to be done.
        let most = if outcome.is_some() { 100 } else { 99 };
        let known = get(&counts.endless) == 0 || outcome.is_some();
        let percent = done.saturating_mul(100).checked_div(total).filter(|_| known);
        let percent = percent.map(|percent| format!("{}%", percent.min(most)));
        let of = |what: &str, counter: &AtomicU64| format!("{what} {}", in_unit(get(counter), unit));
        let steps = match (self.way, outcome) {
            (Way::Put, Some(outcome)) => vec![of("read", &counts.read), of("sent", &counts.sent), outcome.to_owned()],
            (Way::Put, None) => {
                let verified = format!("verified {}", in_unit(done, unit));
                vec![of("read", &counts.read), of("sent", &counts.sent), verified]
            }
            (Way::Get, Some(_)) => Vec::new(),
            (Way::Get, None) => vec![of("written", &counts.written)],
        };
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rate = size((done as f64 / seconds) as u64);
        // What matters least goes first: how far reading is, then sending, then the rest.
        let mut parts = vec![(0, self.name.clone()), (4, files), (1, size(total))];
        parts.extend(percent.map(|percent| (0, percent)));
        parts.extend(steps.into_iter().zip([6, 5, 3]).map(|(step, rank)| (rank, step)));
        parts.push((2, format!("{rate}/s")));
        fitted(parts, columns)
    }
}

impl Monitor for Progress {
    fn event(&self, event: Event) {
        let counts = &self.counts;
        let add = |counter: &AtomicU64, by: u64| {
            counter.fetch_add(by, Ordering::Relaxed);
        };
        match event {
            Event::Found { files, bytes } => {
                add(&counts.files, files);
                add(&counts.bytes, bytes.unwrap_or(0));
                add(&counts.endless, if bytes.is_none() { files } else { 0 });
            }
            Event::Read(bytes) => add(&counts.read, bytes),
            Event::Sent(bytes) => add(&counts.sent, bytes),
            Event::Verified(bytes) => add(&counts.verified, bytes),
            Event::Here(bytes) => add(&counts.here, bytes),
            Event::Written(bytes) => add(&counts.written, bytes),
            Event::FilesDone(files) => add(&counts.files_done, files),
            Event::Notice(line) => self.ui.note(&format!("note: {}", escaped(&line))),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_what_was_measured() {
        let (ui, started) = (Arc::new(Ui::bare(false)), Instant::now());
        let progress = Progress { ui, name: "photos".into(), way: Way::Put, started, counts: Counts::default() };
        let shown = |outcome| {
            let text = progress.text(outcome, usize::MAX);
            // The rate depends on the clock.
            text.rsplit_once("  ").unwrap().0.to_owned()
        };
        assert_eq!(shown(None), "photos  0 files  0 B  read 0  sent 0  verified 0");
        progress.event(Event::Found { files: 1204, bytes: Some(3_328_599_654) });
        progress.event(Event::Read(3_000_000_000));
        progress.event(Event::Sent(6_000_000_000));
        progress.event(Event::Verified(1_500_000_000));
        progress.event(Event::Here(100_000_000));
        progress.event(Event::FilesDone(312));
        assert_eq!(shown(None), "photos  312 of 1,204 files  3.1 GiB  48%  read 2.8  sent 5.6  verified 1.5");
        progress.event(Event::FilesDone(892));
        progress.event(Event::Verified(1_728_599_654));
        assert_eq!(
            shown(Some("verified 3 of 3 copies")),
            "photos  1,204 files  3.1 GiB  100%  read 2.8  sent 5.6  verified 3 of 3 copies"
        );
        // Before the end, nothing is ever said to be done.
        assert!(shown(None).contains("  99%  "));
        assert!(progress.text(None, 60).starts_with("photos  1,204 files  3.1 GiB  99%  verified 3.1  "));
        assert!(progress.text(None, 30).starts_with("photos  3.1 GiB  99%"));
        assert_eq!(progress.text(None, 10), "phot…  99%");
    }
}
