//! Compares what regions answer with what SQL of the test's own says.

use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;
use std::collections::{BTreeMap, BTreeSet};
use system_tests::Result;
use system_tests::region::Agent;
use system_tests::server::Database;

/// What a kind should be in the region `$1`: rows of key, tenant and the value as the text of its `jsonb`.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub sql: &'static str,
}

/// Kind and key.
pub type Name = (String, String);
/// Tenant and value.
pub type Content = (String, String);

/// The comparison. It remembers every key that ever was, so that one that should be gone is asked for.
#[derive(Debug)]
pub struct Truth {
    kinds: Vec<Kind>,
    names: BTreeSet<Name>,
    /// Contexts that are in every region and have expired.
    pub expired: BTreeSet<Name>,
    /// One key in this many is asked for by itself, too.
    pub one_in: usize,
}

/// One element of a batch-get.
#[derive(Debug, Deserialize)]
pub struct Element {
    pub kind: String,
    pub key: String,
    pub tenant: Option<String>,
    pub version: Option<String>,
    pub value: Option<Box<RawValue>>,
    pub error: Option<String>,
}

#[derive(Deserialize)]
struct Batch {
    contexts: Vec<Option<Element>>,
}

impl Truth {
    pub fn new(kinds: &[Kind]) -> Self {
        // Keys that never were, and look like ones that could be.
        let never =
            |k: &Kind| ["", " ", "never", "../x"].map(|s| (k.name.to_owned(), s.to_owned()));
        Self {
            kinds: kinds.to_vec(),
            names: kinds.iter().flat_map(never).collect(),
            expired: BTreeSet::new(),
            one_in: 13,
        }
    }

    /// Every key that ever was true somewhere.
    pub fn names(&self) -> &BTreeSet<Name> {
        &self.names
    }

    /// What should be in a region.
    pub async fn of(&self, database: &Database, region: &str) -> Result<BTreeMap<Name, Content>> {
        let mut connection = database.connect().await?;
        let mut all = BTreeMap::new();
        for kind in &self.kinds {
            let rows: Vec<(String, String, String)> = sqlx::query_as(AssertSqlSafe(kind.sql))
                .bind(region)
                .fetch_all(&mut connection)
                .await?;
            for (key, tenant, value) in rows {
                let before = all.insert((kind.name.to_owned(), key.clone()), (tenant, value));
                if before.is_some() {
                    return Err(format!("the test's own truth has {key:?} twice").into());
                }
            }
        }
        Ok(all)
    }

    /// Every region has exactly what it should have.
    pub async fn holds(&mut self, database: &Database, agents: &[Agent]) -> Result<()> {
        let mut should = BTreeMap::new();
        for agent in agents {
            let truth = self.of(database, &agent.region).await?;
            self.names.extend(truth.keys().cloned());
            should.insert(agent.region.clone(), truth);
        }
        self.answers_are(agents, &should).await
    }

    /// Every region answers for all keys that ever were, whether over batch-get, one by one, or as a count.
    pub async fn answers_are(
        &self,
        agents: &[Agent],
        should: &BTreeMap<String, BTreeMap<Name, Content>>,
    ) -> Result<()> {
        let mut wrong = Vec::new();
        for agent in agents {
            let truth = &should[&agent.region];
            let names: Vec<&Name> = self.names.iter().collect();
            let answers = batch_get(agent, &names).await?;
            for (name, answer) in names.iter().zip(&answers) {
                let (right, got) = (truth.get(*name), answer.as_ref().map(content));
                if right.cloned() != got {
                    wrong.push(format!("{} {name:?}: {got:?}, not {right:?}", agent.region));
                }
            }
            let (count, right) = (
                agent.status().await?["contexts"].as_u64(),
                truth.len() + self.expired.len(),
            );
            if count != Some(right as u64) {
                wrong.push(format!(
                    "{} has {count:?} contexts, not {right}",
                    agent.region
                ));
            }
            for name in names.into_iter().step_by(self.one_in) {
                let absent = match self.expired.contains(name) {
                    true => "expired",
                    false => "not_found",
                };
                wrong.extend(one_by_one(agent, name, truth.get(name), absent).await?);
            }
        }
        match wrong.len() {
            0 => Ok(()),
            n => {
                wrong.truncate(8);
                Err(format!("{n} answers are wrong:\n  {}", wrong.join("\n  ")).into())
            }
        }
    }
}

/// What is wrong with the answer to one GET.
async fn one_by_one(
    agent: &Agent,
    name: &Name,
    right: Option<&Content>,
    absent: &str,
) -> Result<Option<String>> {
    let (kind, key) = name;
    if ["", ".", ".."].contains(&key.as_str()) {
        // No URL names them.
        return Ok(None);
    }
    let (status, body) = agent.get(kind, key).await?;
    let good = match right {
        Some((_, value)) => status == 200 && body == *value,
        None => status == 404 && body == format!("{{\"error\":\"{absent}\"}}"),
    };
    let line = || {
        format!(
            "GET {} {name:?}: {status} {body}, not {right:?}",
            agent.region
        )
    };
    Ok((!good).then(line))
}

fn content(element: &Element) -> Content {
    let value = element.value.as_ref().map(|v| v.get());
    let value = value.or(element.error.as_deref()).unwrap_or_default();
    (element.tenant.clone().unwrap_or_default(), value.to_owned())
}

/// The body of a batch-get for these names.
pub fn question(names: &[&Name]) -> serde_json::Value {
    let key = |(kind, key): &&Name| serde_json::json!({ "kind": kind, "key": key });
    serde_json::json!({ "keys": names.iter().map(key).collect::<Vec<_>>() })
}

/// The elements of the answer to a batch-get for these names, in their order.
pub fn elements(names: &[&Name], body: &str) -> Result<Vec<Option<Element>>> {
    let batch: Batch = serde_json::from_str(body)?;
    if batch.contexts.len() != names.len() {
        return Err("batch-get: another number of answers".into());
    }
    for (name, element) in names.iter().zip(&batch.contexts) {
        if let Some(e) = element
            .as_ref()
            .filter(|e| (&e.kind, &e.key) != (&name.0, &name.1))
        {
            return Err(format!("asked for {name:?}, answered for {e:?}").into());
        }
    }
    Ok(batch.contexts)
}

/// The answers of a region, in the order of the names.
pub async fn batch_get(agent: &Agent, names: &[&Name]) -> Result<Vec<Option<Element>>> {
    let mut all = Vec::with_capacity(names.len());
    for part in names.chunks(1000) {
        let response = agent
            .client()
            .post(agent.url("/v1/contexts/batch-get"))
            .json(&question(part))
            .send()
            .await?;
        let (status, text) = (response.status(), response.text().await?);
        if status != 200 {
            return Err(format!("batch-get in {}: {status} {text}", agent.region).into());
        }
        all.extend(elements(part, &text)?);
    }
    Ok(all)
}

/// All answers of all regions with their versions: whatever is written changes it.
pub async fn fingerprint(truth: &Truth, agents: &[Agent]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for agent in agents {
        let names: Vec<&Name> = truth.names().iter().collect();
        for element in batch_get(agent, &names).await?.into_iter().flatten() {
            let (tenant, value) = content(&element);
            let Element {
                kind, key, version, ..
            } = element;
            all.push(format!(
                "{} {kind} {key:?} {tenant:?} {version:?} {value}",
                agent.region
            ));
        }
    }
    Ok(all)
}
