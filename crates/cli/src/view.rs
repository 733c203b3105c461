//! A cluster as its agents tell it, all asked at once.

use matriarch_api::{ClientError, ClusterStatus, MemberRow, StatusPage};
use tokio::task::JoinSet;

use crate::fail::{Failure, code};
use crate::target::{Endpoint, Target};

/// What the agents said.
#[derive(Debug, Default)]
pub struct View {
    /// The cluster, from the agent that knows best: the leader's, else the one with the newest epoch.
    pub cluster: ClusterStatus,
    /// Every agent that was asked, and its page.
    pub answers: Vec<Answer>,
}

/// What one agent said.
#[derive(Debug)]
pub struct Answer {
    /// Who was asked.
    pub endpoint: Endpoint,
    /// Its page.
    pub page: Result<StatusPage, ClientError>,
}

impl View {
    /// Name of the leader.
    pub fn leader(&self) -> Option<&str> {
        self.cluster.matriarch.leader.as_deref()
    }

    /// Row of a member.
    pub fn row(&self, name: &str) -> Option<&MemberRow> {
        self.cluster.members.iter().find(|row| row.name == name)
    }

    /// Page of a member whose agent answered.
    pub fn page(&self, name: &str) -> Option<&StatusPage> {
        self.answers.iter().find(|answer| answer.endpoint.name == name).and_then(|answer| answer.page.as_ref().ok())
    }

    /// Page of the leader, or of the agent that knows best.
    pub fn best_page(&self) -> Option<&StatusPage> {
        let best = self.cluster.matriarch.seen_by.as_str();
        self.leader().and_then(|leader| self.page(leader)).or_else(|| self.page(best))
    }

    /// Whether the agent of a member answered; none when it was not asked.
    pub fn answered(&self, name: &str) -> Option<bool> {
        self.answers.iter().find(|answer| answer.endpoint.name == name).map(|answer| answer.page.is_ok())
    }

    /// Endpoint of a member, wherever it is known from.
    pub fn endpoint(&self, name: &str) -> Option<Endpoint> {
        self.answers.iter().map(|answer| &answer.endpoint).find(|endpoint| endpoint.name == name).cloned().or_else(
            || {
                let row = self.row(name).filter(|row| !row.api_url.is_empty())?;
                Some(Endpoint { name: row.name.clone(), api_url: row.api_url.clone() })
            },
        )
    }

    /// Endpoints in the order in which to ask for something: `first`, then those that answered, then the others.
    pub fn in_order(&self, first: Option<&str>) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = self.answers.iter().map(|answer| answer.endpoint.clone()).collect();
        endpoints.sort_by_key(|endpoint| {
            (first != Some(endpoint.name.as_str()), self.answered(&endpoint.name) != Some(true), endpoint.name.clone())
        });
        endpoints
    }
}

/// Asks every agent. A dead one delays the answer by less than a second.
///
/// Errors: only when no agent answers at all.
pub async fn read(target: &Target) -> anyhow::Result<View> {
    if target.members.is_empty() {
        let text = format!("no member of cluster '{}' is known; say where it is with --dir or --store", target.cluster);
        return Err(Failure::new(code::UNAVAILABLE, text).into());
    }
    let mut answers = ask(target, target.members.clone(), false).await;
    if answers.iter().all(|answer| answer.page.as_ref().is_err_and(ClientError::is_away))
        && answers.iter().any(|answer| matches!(answer.page, Err(ClientError::Timeout { .. })))
    {
        answers = ask(target, target.members.clone(), true).await;
    }
    let Some(cluster) = best(&answers) else { return Err(nobody(target, answers)) };
    let unknown = |row: &&MemberRow| {
        !row.expired && !row.api_url.is_empty() && !answers.iter().any(|answer| answer.endpoint.name == row.name)
    };
    let more = cluster.members.iter().filter(unknown);
    let more = more.map(|row| Endpoint { name: row.name.clone(), api_url: row.api_url.clone() }).collect();
    answers.extend(ask(target, more, false).await);
    let cluster = best(&answers).unwrap_or(cluster);
    Ok(View { cluster, answers })
}

async fn ask(target: &Target, endpoints: Vec<Endpoint>, patient: bool) -> Vec<Answer> {
    let mut asked = JoinSet::new();
    for (at, endpoint) in endpoints.into_iter().enumerate() {
        let client = match patient {
            false => target.client(&endpoint.api_url),
            true => target.patient_client(&endpoint.api_url),
        };
        asked.spawn(async move {
            let page = match client {
                Ok(client) => client.status().await,
                Err(bad) => Err(bad),
            };
            (at, Answer { endpoint, page })
        });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

fn best(answers: &[Answer]) -> Option<ClusterStatus> {
    let pages = answers.iter().filter_map(|answer| answer.page.as_ref().ok());
    let knows = |page: &&StatusPage| {
        let member = &page.member.matriarch;
        (member.store_reachable, page.cluster.matriarch.epoch, member.leader, page.cluster.matriarch.seen_at.clone())
    };
    pages.max_by_key(knows).map(|page| page.cluster.clone())
}

fn nobody(target: &Target, answers: Vec<Answer>) -> anyhow::Error {
    let count = answers.len();
    let mut said: Vec<String> = Vec::new();
    let mut first = None;
    for answer in answers {
        if let Err(failure) = answer.page {
            said.push(format!("  {}: {failure}", answer.endpoint.name));
            if first.is_none() && !failure.is_away() {
                first = Some(failure);
            }
        }
    }
    let text = format!(
        "none of the {count} agents of cluster '{}' answers as it should:\n{}\nstart the cluster with 'matriarch up', or \
         look at the agents' logs",
        target.cluster,
        said.join("\n")
    );
    match first {
        Some(failure) => anyhow::Error::from(failure).context(text),
        None => Failure::new(code::UNAVAILABLE, text).into(),
    }
}
