//! One line per event, for people or for machines, on standard error.

use clap::ValueEnum;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging. `level` is the least severity; `MATRIARCH_LOG` may say more, as `LEVEL` and `CRATE=LEVEL` separated
/// by commas.
pub fn start(format: LogFormat, level: &str) {
    let asked = std::env::var("MATRIARCH_LOG").ok();
    let parsed = asked.as_deref().map(str::parse::<Targets>);
    let filter = match &parsed {
        Some(Ok(filter)) => filter.clone(),
        // Not tracing's `EnvFilter`, which can filter by fields and brings a regex engine into every idle agent.
        _ => level.parse().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO)),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let layer = match format {
        LogFormat::Text => layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    if let (Some(asked), Some(Err(error))) = (asked, parsed) {
        tracing::warn!(
            "MATRIARCH_LOG is '{asked}', which says no level ({error}); write info or info,matriarch_proxy=debug"
        );
    }
}
