//! `man`: the help as manual pages.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap_mangen::Man;

use crate::args::{command, examples, exits};
use crate::commands::no_json;
use crate::error::{Exit, Failure, Outcome};
use crate::ui::Ui;
use crate::ui::text::plural;

/// Print the manual page, or write one for every command
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode man | man -l -",
        "bytenode man --dir ~/.local/share/man/man1    then: man bytenode-put",
    ]),
    after_help = exits(&[]),
)]
pub struct Args {
    /// Write a page for each command into this directory, which is made if it is not there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs it.
pub fn run(ui: &Ui, args: &Args) -> Outcome<Exit> {
    no_json(ui, "man")?;
    let mut command = command();
    // Fills in full names like `bytenode-admin-node`.
    command.build();
    let Some(dir) = &args.dir else {
        let page = page(&command).map_err(|error| Failure::io("cannot make the page", &error))?;
        ui.raw(&page)?;
        return Ok(Exit::Done);
    };
    let broken = |error: io::Error| Failure::io(format!("cannot write to {}", dir.display()), &error);
    fs::create_dir_all(dir).map_err(broken)?;
    let (mut left, mut pages) = (vec![&command], 0);
    while let Some(one) = left.pop() {
        let name = Man::new(one.clone()).get_filename();
        fs::write(dir.join(name), page(one).map_err(broken)?).map_err(broken)?;
        left.extend(one.get_subcommands().filter(|below| !below.is_hide_set()));
        pages += 1;
    }
    ui.note(&format!("Wrote {} to {}.", plural(pages, "page"), dir.display()));
    Ok(Exit::Done)
}

/// The page of one command, with the same parts as its help.
fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let (man, version) = (Man::new(command.clone()), env!("CARGO_PKG_VERSION"));
    // A page of one version is the same whenever it is made: it has no date.
    let mut page = format!(".TH \"{}\" 1 \"\" \"ByteNode {version}\" \"ByteNode\"\n", name.to_uppercase()).into_bytes();
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    literal(&mut page, command.get_before_help());
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    literal(&mut page, command.get_after_help());
    Ok(page)
}

/// A part of the help as it is: its first line is what it is called, if it is a title.
fn literal(page: &mut Vec<u8>, text: Option<&clap::builder::StyledStr>) {
    let text = text.map(ToString::to_string).unwrap_or_default();
    let (title, lines) = match text.split_once(":\n") {
        Some(("Exit codes", lines)) => ("EXIT STATUS", lines),
        Some((_, lines)) => ("EXAMPLES", lines),
        None => ("NOTES", text.as_str()),
    };
    if lines.is_empty() {
        return;
    }
    page.extend_from_slice(format!(".SH {title}\n.nf\n").as_bytes());
    for line in lines.trim_end().lines() {
        let line = line.strip_prefix("  ").unwrap_or(line).replace('\\', "\\e").replace('-', "\\-");
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        page.extend_from_slice(format!("{guard}{line}\n").as_bytes());
    }
    page.extend_from_slice(b".fi\n");
}
