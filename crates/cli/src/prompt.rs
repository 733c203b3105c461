//! Questions to the person at the terminal.

use std::io::{self, IsTerminal};

use crate::fail::{Failure, code};

/// Somebody who can be asked; tests script it.
pub trait Prompt {
    /// Whether anybody is there to answer.
    fn interactive(&self) -> bool;
    /// Asks to choose; answers the index.
    fn choose(&mut self, question: &str, options: &[String]) -> io::Result<usize>;
    /// Asks for a yes; no is the default.
    fn confirm(&mut self, question: &str) -> io::Result<bool>;
    /// Asks for a word.
    fn answer(&mut self, question: &str) -> io::Result<String>;
}

/// The terminal. Questions go to the standard error stream, so that output can be piped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terminal;

impl Prompt for Terminal {
    fn interactive(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    fn choose(&mut self, question: &str, options: &[String]) -> io::Result<usize> {
        let answer = dialoguer::Select::new().with_prompt(question).items(options).default(0).interact();
        answer.map_err(|dialoguer::Error::IO(failure)| failure)
    }

    fn confirm(&mut self, question: &str) -> io::Result<bool> {
        let answer = dialoguer::Confirm::new().with_prompt(question).default(false).interact();
        answer.map_err(|dialoguer::Error::IO(failure)| failure)
    }

    fn answer(&mut self, question: &str) -> io::Result<String> {
        let answer = dialoguer::Input::new().with_prompt(question).allow_empty(true).interact_text();
        answer.map_err(|dialoguer::Error::IO(failure)| failure)
    }
}

/// Asks for a yes, unless forced. Without anybody to ask it says to add `--force`.
pub fn consent(prompt: &mut dyn Prompt, force: bool, question: &str) -> anyhow::Result<()> {
    if force {
        return Ok(());
    }
    if !prompt.interactive() {
        let text = format!("this needs a confirmation and there is no terminal to ask at ({question}); add --force");
        return Err(Failure::new(code::USAGE, text).into());
    }
    if prompt.confirm(question)? {
        return Ok(());
    }
    Err(Failure::new(code::USAGE, "nothing was done: not confirmed").into())
}
