//! `synchronous_standby_names` with connections of the tail beside the voters, and without.
//!
//! The rule `ANY k (S)` (or `FIRST`) becomes `ANY k+t (T, S)`, where T are the names of t connections. Each name is made for one
//! connection, so that it counts once at most; then whatever PostgreSQL acknowledges is on k of the voters, as by the rule alone. In
//! T there are as many connections of each repository's tail as it takes that the voters alone are never enough ([`weight`]): each of
//! them reports what the repository holds, so nothing is acknowledged before every repository holds it.
//!
//! Processes of PostgreSQL load new names one by one. Each marks itself by the names that it has loaded, and counts those who are
//! marked up to the number that it has loaded. So no more connections may be marked than the least number in use has been raised
//! by: names that nobody bears ([`nobodies`]) hold the place while the number is raised before connections come in, and until they
//! are seen to be unmarked before it is lowered ([`step`]).

use std::collections::BTreeSet;

/// No member is called so: '@' is not allowed in their names.
const PREFIX: &str = "matriarch_tail@";
const NOBODY: &str = "matriarch_tail@nobody-";

/// A name for one connection.
pub fn fresh() -> String {
    format!("{PREFIX}{:016x}", rand::random::<u64>())
}

/// Names that no connection has.
pub fn nobodies(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("{NOBODY}{number}")).collect()
}

fn is_nobody(name: &str) -> bool {
    name.starts_with(NOBODY)
}

/// A connection of a tail calls itself so.
pub fn is_tail(name: &str) -> bool {
    name.starts_with(PREFIX) && !is_nobody(name)
}

/// The parts of a value that we have written.
struct Names<'a> {
    method: &'a str,
    number: usize,
    names: Vec<&'a str>,
}

fn parse(text: &str) -> Option<Names<'_>> {
    let (head, rest) = text.split_once(" (")?;
    let (method, number) = head.split_once(' ')?;
    let names = rest.strip_suffix(')')?.split(", ").map(|name| name.strip_prefix('"')?.strip_suffix('"'));
    Some(Names { method, number: number.parse().ok()?, names: names.collect::<Option<_>>()? })
}

fn render(method: &str, number: usize, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("{method} {number} ({})", names.join(", "))
}

/// The names of the tail in a value, also those of nobody.
pub fn tails(text: &str) -> Vec<String> {
    let names = parse(text).map(|parts| parts.names).unwrap_or_default();
    names.into_iter().filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect()
}

/// The rule that a value enforces among members; somebody else's stays as it is.
pub fn rule(text: &str) -> String {
    let Some(Names { method, number, names }) = parse(text) else { return text.to_owned() };
    let voters: Vec<&str> = names.iter().copied().filter(|name| !name.starts_with(PREFIX)).collect();
    if voters.len() == names.len() {
        return text.to_owned();
    }
    if voters.is_empty() {
        return String::new();
    }
    render(method, number.saturating_sub(names.len() - voters.len()), &voters)
}

/// The value that enforces a rule and waits for the tail as well.
pub fn with_tails(rule: &str, tails: &[String]) -> String {
    if tails.is_empty() {
        return rule.to_owned();
    }
    let all = tails.iter().map(String::as_str);
    match parse(rule) {
        Some(Names { method, number, names }) => {
            render(method, number + tails.len(), &all.chain(names).collect::<Vec<_>>())
        }
        None if rule.is_empty() => render("ANY", tails.len(), &all.collect::<Vec<_>>()),
        // Not of our making.
        None => rule.to_owned(),
    }
}

/// How many connections each tail needs so that voters alone are never enough, also when so many members vote.
pub fn weight(rule: &str, members: usize) -> usize {
    let Some(Names { number, names, .. }) = parse(rule) else { return 1 };
    (names.len().max(members) + 1).saturating_sub(number).max(1)
}

/// The next names on the way to `wanted`, from those that every process has loaded. `marked`: connections that may count now;
/// `alone`: there is no rule among members that could be weakened.
pub fn step(loaded: &[String], wanted: &[String], marked: &BTreeSet<String>, alone: bool) -> Vec<String> {
    let counting = wanted.iter().filter(|name| !is_nobody(name));
    let may_count = counting.chain(marked).collect::<BTreeSet<_>>().len();
    if alone || may_count <= loaded.len().min(wanted.len()) {
        return wanted.to_vec();
    }
    nobodies(loaded.len().max(wanted.len()))
}

#[cfg(test)]
mod tests;
