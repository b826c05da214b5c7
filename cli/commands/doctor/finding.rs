//! What was found, and how it is shown: for people aligned, what is fine of a node on one line; a JSON line for each.

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::error::Failure;
use crate::ui::text::{escaped, escaped_lines};

/// The room for the name of a check: that of the longest without a node's name, and of most with one.
const NARROW: usize = 16;
/// A longer name pushes its own message aside only.
const WIDE: usize = 30;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Fine.
    Ok,
    /// It works, but something can be lost or fail later.
    Risk,
    /// Something does not work.
    Failed,
}

/// What one check found. Its texts may be anybody's: they are made harmless when they are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    check: String,
    node: Option<String>,
    /// How bad it is.
    pub result: Weight,
    message: String,
    hint: Option<String>,
}

/// A JSON line.
#[derive(Serialize)]
pub struct Record<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    check: String,
    result: Weight,
    message: &'a str,
    hint: Option<&'a str>,
}

impl Finding {
    /// Nothing is wrong.
    pub fn ok(check: &str, message: impl Into<String>) -> Self {
        Self { check: check.to_owned(), node: None, result: Weight::Ok, message: message.into(), hint: None }
    }

    /// Something may go wrong.
    pub fn risk(check: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { result: Weight::Risk, hint: Some(hint.into()), ..Self::ok(check, message) }
    }

    /// Something is wrong.
    pub fn failed(check: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { result: Weight::Failed, hint: Some(hint.into()), ..Self::ok(check, message) }
    }

    /// The check itself could not be made, or what it needs failed.
    pub fn failure(check: &str, failure: &Failure) -> Self {
        let message = std::iter::once(&failure.message).chain(&failure.causes).map(String::as_str);
        let message = message.collect::<Vec<_>>().join(": ");
        Self { result: Weight::Failed, hint: failure.hint.clone(), ..Self::ok(check, message) }
    }

    /// The same with another weight and hint.
    pub fn weighing(self, result: Weight, hint: Option<String>) -> Self {
        Self { result, hint, ..self }
    }

    /// Says of which node it is.
    pub fn of(self, node: &str) -> Self {
        Self { node: Some(node.to_owned()), ..self }
    }

    /// Says who can do what the hint says.
    pub fn for_admins(mut self) -> Self {
        self.hint = self.hint.map(|hint| format!("an admin can: {hint}"));
        self
    }

    /// Its JSON line.
    pub fn record(&self) -> Record<'_> {
        let check = match &self.node {
            Some(node) => format!("{} {node}", self.check),
            None => self.check.clone(),
        };
        Record { kind: "check", check, result: self.result, message: &self.message, hint: self.hint.as_deref() }
    }

    fn label(&self) -> String {
        match &self.node {
            Some(node) => format!("{} {}:", self.check, escaped(node)),
            None => format!("{}:", self.check),
        }
    }

    fn line(&self, width: usize) -> String {
        let mark = match self.result {
            Weight::Ok => "ok  ",
            Weight::Risk => "risk",
            Weight::Failed => "FAIL",
        };
        let label = self.label();
        let pad = " ".repeat(width.saturating_sub(label.width()));
        let mut out = format!("{mark}  {label}{pad} {}\n", escaped(&self.message));
        for line in self.hint.iter().flat_map(|hint| hint.lines()) {
            out.push_str(&format!("      {}\n", escaped_lines(line)));
        }
        out
    }
}

/// The findings for people, in their order. What is fine of one node is one line: the first, if its state is fine.
pub fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.label().width()).max().unwrap_or(0).clamp(NARROW, WIDE);
    let same = |a: &Finding, b: &Finding| a.node.is_some() && a.node == b.node;
    let mut out = String::new();
    for group in findings.chunk_by(same) {
        let fine: Vec<&Finding> = group.iter().filter(|finding| finding.result == Weight::Ok).collect();
        let merged = fine.first().map(|first| {
            let message = fine.iter().map(|finding| finding.message.as_str()).collect::<Vec<_>>().join(", ");
            let check = if first.node.is_some() { "node" } else { first.check.as_str() };
            Finding { check: check.to_owned(), message, ..(*first).clone() }.line(width)
        });
        let rest = group.iter().filter(|finding| finding.result != Weight::Ok).map(|finding| finding.line(width));
        let (before, after) = if group[0].result == Weight::Ok { (merged, None) } else { (None, merged) };
        out.extend(before.into_iter().chain(rest).chain(after));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_can_forge_no_line() {
        let found = [
            Finding::risk("sync", "bad\nok    sync: \u{1b}[2Jfine", "do\nok    x: y").of("n\n1"),
            Finding::ok("copies", "all"),
        ];
        insta::assert_snapshot!(text(&found), @r"
        risk  sync n\n1:       bad\nok    sync: \u{1b}[2Jfine
              do
              ok    x: y
        ok    copies:          all
        ");
        let json = serde_json::to_value(found[0].record()).unwrap();
        assert_eq!((&json["check"], &json["result"]), (&"sync n\n1".into(), &"risk".into()));
    }
}
