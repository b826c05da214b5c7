//! `ls`: list a directory.

use bytenode::api::{Entry, Kind, ListRequest};
use bytenode::path::RemotePath;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::{Ctx, PAGE, entry_at, typed};
use crate::error::{Exit, Failure, Outcome};
use crate::ui::text::{escaped, local_time, size};

/// List a directory
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode ls                      the top directory",
        "bytenode ls -l bn:/photos        with copies, size and time",
        "bytenode ls -R --print0 bn:/ | xargs -0 -n1 echo",
    ]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Temporary]),
)]
pub struct Args {
    /// What to list
    #[arg(value_name = "bn:/DIR", default_value = "bn:/")]
    path: String,
    /// Show kind, copies, size and modification time
    #[arg(short, long)]
    long: bool,
    /// Go below
    #[arg(short = 'R', long)]
    recursive: bool,
    /// End each name with NUL instead of a line break, and write names as they are
    #[arg(long, conflicts_with_all = ["long", "json"])]
    print0: bool,
}

/// What a listing says of one entry.
#[derive(Serialize)]
struct EntryRecord<'a> {
    #[serde(rename = "type")]
    kind_of_line: &'static str,
    path: &'a RemotePath,
    kind: Kind,
    size: u64,
    modified: Timestamp,
    copies_min: Option<u32>,
    copies_target: u32,
    checked: Option<Timestamp>,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    entries: u64,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let place = typed(&args.path)?;
    let session = ctx.session()?;
    let mut entries = 0;
    let zone = TimeZone::system();
    // The root is a directory always; anything else is looked at first.
    let top = if place.path.is_root() { None } else { Some(entry_at(&session, &place).await?) };
    if let Some(file) = top.filter(|entry| entry.kind == Kind::File) {
        let above = file.path.parent().unwrap_or_default();
        ctx.ui.raw(&page_text(ctx, args, &zone, &above, std::slice::from_ref(&file))?)?;
        entries = 1;
    } else {
        let mut cursor = None;
        loop {
            let request = ListRequest { path: place.path.clone(), recursive: args.recursive, cursor, limit: PAGE };
            let page = session.list(&request).await?;
            entries += page.items.len() as u64;
            ctx.ui.raw(&page_text(ctx, args, &zone, &place.path, &page.items)?)?;
            cursor = page.next_cursor;
            if cursor.is_none() || ctx.ui.closed() {
                break;
            }
        }
    }
    ctx.ui.record(&SummaryRecord { kind: "summary", entries })?;
    Ok(Exit::Done)
}

/// A page in one piece, so that a long listing is not a write for each line.
fn page_text(ctx: &Ctx, args: &Args, zone: &TimeZone, top: &RemotePath, entries: &[Entry]) -> Outcome<Vec<u8>> {
    let mut out = Vec::new();
    for entry in entries {
        if ctx.ui.json {
            let record = EntryRecord {
                kind_of_line: "entry",
                path: &entry.path,
                kind: entry.kind,
                size: entry.size,
                modified: entry.modified,
                copies_min: entry.copies_min,
                copies_target: entry.copies_target,
                checked: entry.checked,
            };
            serde_json::to_writer(&mut out, &record)
                .map_err(|error| Failure::other("cannot write JSON").cause(&error))?;
            out.push(b'\n');
            continue;
        }
        let name = shown_name(top, entry);
        if args.print0 {
            out.extend_from_slice(name.as_bytes());
            out.push(0);
        } else if args.long {
            out.extend_from_slice(long_line(entry, &name, zone).as_bytes());
        } else {
            out.extend_from_slice(format!("{}\n", escaped(&name)).as_bytes());
        }
    }
    Ok(out)
}

/// The name below what was listed; a directory's with a slash.
fn shown_name(top: &RemotePath, entry: &Entry) -> String {
    let skip = if entry.path.is_within(top) { top.segments().len() } else { 0 };
    let name = entry.path.segments()[skip..].join("/");
    if entry.kind == Kind::Dir { name + "/" } else { name }
}

/// `-  3/3   41.3 MiB  2026-11-20 14:03  a.raw`
fn long_line(entry: &Entry, name: &str, zone: &TimeZone) -> String {
    let kind = match (entry.kind, entry.executable) {
        (Kind::Dir, _) => 'd',
        (Kind::File, true) => 'x',
        (Kind::File, false) => '-',
    };
    let copies = match entry.copies_min {
        Some(copies) => format!("{copies}/{}", entry.copies_target),
        None => "-".into(),
    };
    let size = if entry.kind == Kind::Dir { "-".into() } else { size(entry.size) };
    let modified = local_time(entry.modified, zone);
    format!("{kind}  {copies:>4}  {size:>10}  {modified}  {}\n", escaped(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_has_its_columns() {
        let mut entry = Entry {
            path: "bn:/d/a\nb".parse().unwrap(),
            kind: Kind::File,
            size: 43_306_189,
            modified: Timestamp::from_second(1_790_000_000).unwrap(),
            executable: true,
            sha256: None,
            version: None,
            chunks: 42,
            copies_min: Some(3),
            copies_target: 3,
            checked: None,
            public: false,
            spread: None,
            cid: None,
        };
        let top = "bn:/d".parse().unwrap();
        let line = |entry: &Entry| long_line(entry, &shown_name(&top, entry), &TimeZone::UTC);
        insta::assert_snapshot!(line(&entry), @r"x   3/3    41.3 MiB  2026-09-21 14:13  a\nb");
        entry.kind = Kind::Dir;
        entry.copies_min = None;
        insta::assert_snapshot!(line(&entry), @r"d     -           -  2026-09-21 14:13  a\nb/");
    }
}
