//! Which path shows what.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use tokio::runtime::Handle;

use super::http::{JSON, Page, Pages};
use super::survey::Sources;
use super::{exposition, metrics, page};
use crate::metrics::Metrics;

const INDEX: &str = "\
sds-agent

/status   what is served, to whom, until when (JSON)
/metrics  metrics for Prometheus
/livez    whether every part of the agent moves
/readyz   whether all roots were read and clients are served
";

/// All that the agent shows.
pub struct AdminPages {
    sources: Sources,
    metrics: Arc<Metrics>,
    /// Whether there is a page for people, rather than a list of what there is.
    with_page: bool,
    /// Held while a page is made of the whole state: however many ask, one at a time costs processor
    /// time that streams may need.
    turn: Mutex<()>,
}

impl AdminPages {
    /// Pages that show these.
    pub fn new(sources: Sources, metrics: Arc<Metrics>) -> Self {
        Self {
            sources,
            metrics,
            with_page: false,
            turn: Mutex::default(),
        }
    }

    /// And a page for people.
    pub fn with_page(self) -> Self {
        Self {
            with_page: true,
            ..self
        }
    }

    fn index(&self) -> Page {
        if !self.with_page {
            return Page::text(StatusCode::OK, INDEX);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        page::of(&self.sources.survey())
    }

    fn status(&self) -> Page {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match serde_json::to_vec(&self.sources.survey()) {
            Ok(json) => Page::ok(JSON, json),
            Err(error) => Page::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the state can't be written: {error}\n"),
            ),
        }
    }

    fn metrics(&self) -> Page {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let text = metrics::text(&self.sources.survey(), &self.metrics);
        Page::ok(exposition::CONTENT_TYPE, text)
    }

    /// Runs on a thread where it may block.
    fn alive(&self) -> Page {
        match Handle::current().block_on(self.sources.health.alive()) {
            Ok(()) => Page::text(StatusCode::OK, "alive\n"),
            Err(silent) => Page::text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the {} does not move\n", silent.0),
            ),
        }
    }

    fn ready(&self) -> Page {
        let waits = self.sources.health.waits_for();
        if waits.is_empty() {
            let degraded = self.sources.health.degraded();
            let lines = degraded.iter().map(|line| format!("degraded: {line}\n"));
            return Page::text(
                StatusCode::OK,
                format!("ready\n{}", lines.collect::<String>()),
            );
        }
        let lines: String = waits.iter().map(|wait| format!("{wait}\n")).collect();
        Page::text(StatusCode::SERVICE_UNAVAILABLE, lines)
    }
}

impl Pages for AdminPages {
    fn page(&self, path: &str, _query: Option<&str>) -> Option<Page> {
        Some(match path {
            "/" => self.index(),
            "/status" => self.status(),
            "/metrics" => self.metrics(),
            "/livez" => self.alive(),
            "/readyz" => self.ready(),
            _ => return None,
        })
    }
}
