//! Reads of one agent, and what every answer must be like, whatever happens meanwhile.

use super::Counts;
use super::claims::{Claims, Floors, Subject};
use super::stage::{KEYS, PLANS, TENANTS};
use crate::truth::{Element, Name, elements, question};
use contexts::version::Version;
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use system_tests::Result;
use system_tests::region::Agent;

/// An age is rounded, and a clock may run a little faster than another of the same machine.
pub const SLACK: Duration = Duration::from_millis(5);

/// Numbers from here on were only ever written by what was rolled back.
pub const NEVER: i64 = 1 << 40;

/// Somebody who reads one agent. Many may read the same.
pub struct Reader {
    pub agent: Agent,
    pub index: usize,
    pub claims: Arc<Claims>,
    pub counts: Arc<Counts>,
}

/// An answer, and what it must show.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
    floors: Floors,
    /// Every change from before this moment is in it.
    fresh: Option<Instant>,
}

impl Answer {
    fn version(&self) -> Result<i64> {
        number(text(&self.headers, "x-context-version").unwrap_or_default())
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A version as a number, in the same order.
fn number(version: &str) -> Result<i64> {
    let version: Version = version.parse()?;
    Ok(i64::try_from(version.epoch << 40 | version.n)?)
}

fn name(kind: &str, key: String) -> Name {
    (kind.to_owned(), key)
}

/// The value of an element that was found.
fn value(element: &Element) -> Result<Value> {
    match &element.value {
        Some(value) => Ok(serde_json::from_str(value.get())?),
        None => Err(format!("{element:?} has no value").into()),
    }
}

fn n(value: &Value, field: &str) -> Result<i64> {
    let n = value[field].as_i64();
    n.filter(|n| *n < NEVER)
        .ok_or_else(|| format!("{field} of {value} was never committed").into())
}

impl Reader {
    /// Another one of the same agent.
    pub fn another(&self) -> Self {
        Self {
            agent: self.agent.reader(),
            index: self.index,
            claims: self.claims.clone(),
            counts: self.counts.clone(),
        }
    }

    /// Sends a question. No answer, if the agent is away or not ready.
    async fn ask(&self, request: RequestBuilder) -> Result<Option<Answer>> {
        let (floors, asked) = (self.claims.floors(self.index), Instant::now());
        let sent = request.timeout(Duration::from_secs(10)).send().await;
        let Ok(response) = sent else { return Ok(None) };
        let (status, headers) = (response.status(), response.headers().clone());
        let Ok(body) = response.text().await else {
            return Ok(None);
        };
        match status.as_u16() {
            200 | 404 => {}
            503 if body.contains("not_ready") => {
                self.counts.unready.fetch_add(1, Ordering::Relaxed);
                return Ok(None);
            }
            _ => return Err(format!("agent {}: {status} {body}", self.index).into()),
        }
        let age = text(&headers, "x-context-age")
            .map(str::parse)
            .transpose()?;
        if age.is_none() {
            self.counts.ageless.fetch_add(1, Ordering::Relaxed);
        }
        let age = age.map(Duration::try_from_secs_f64).transpose()?;
        self.counts.reads.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Answer {
            status,
            headers,
            body,
            floors,
            fresh: age.and_then(|age| asked.checked_sub(age + SLACK)),
        }))
    }

    fn judge(&self, answer: &Answer, subject: Subject, shown: Option<i64>) -> Result<()> {
        let Answer { floors, fresh, .. } = answer;
        self.claims
            .judge(self.index, subject, shown, floors, *fresh)
    }

    async fn batch(&self, names: &[Name]) -> Result<Option<(Answer, Vec<Option<Element>>)>> {
        let names: Vec<&Name> = names.iter().collect();
        let url = self.agent.url("/v1/contexts/batch-get");
        let request = self.agent.client().post(url).json(&question(&names));
        let Some(answer) = self.ask(request).await? else {
            return Ok(None);
        };
        // The store's own, which is in memory before it is on disk, and may step back where the process was killed.
        answer.version()?;
        let elements = elements(&names, &answer.body)?;
        Ok(Some((answer, elements)))
    }

    /// Reads what a tenant always has, from one snapshot. Whether there was an answer.
    pub async fn tenant(&self, tenant: u16) -> Result<bool> {
        let id = format!("t{tenant}");
        let kinds = ["counter", "twin", "account", "notice"];
        let Some((answer, found)) = self.batch(&kinds.map(|k| name(k, id.clone()))).await? else {
            return Ok(false);
        };
        for element in found.iter().flatten() {
            if element.tenant.as_ref() != Some(&id) {
                return Err(format!("{element:?} is of {id}").into());
            }
            let version = number(element.version.as_deref().unwrap_or_default())?;
            self.judge(&answer, Subject::Version(tenant), Some(version))?;
        }
        let values = found.iter().map(|e| e.as_ref().map(value).transpose());
        let values: Vec<Option<Value>> = values.collect::<Result<_>>()?;
        let numbers = values
            .iter()
            .map(|v| v.as_ref().map(|v| n(v, "n")).transpose());
        let numbers: Vec<Option<i64>> = numbers.collect::<Result<_>>()?;
        let [counter, twin, account, notice] = numbers[..] else {
            return Err("another number of answers".into());
        };
        if counter != twin || (counter.is_some() && notice > counter) {
            let line = format!("agent {}: half of two bundles: {found:?}", self.index);
            return Err(line.into());
        }
        self.judge(&answer, Subject::Counter(tenant), counter)?;
        self.judge(&answer, Subject::Account(tenant), account)?;
        if notice.is_some() {
            self.judge(&answer, Subject::Notice(tenant), notice)?;
        }
        let account = values[2].as_ref().ok_or("an account is absent")?;
        let plan = (0..PLANS).find(|p| account["plan"] == format!("p{p}"));
        let plan = plan.ok_or("an account has no plan")?;
        let subject = Subject::Plan { plan, of: tenant };
        self.judge(&answer, subject, Some(n(account, "plan_n")?))?;
        Ok(true)
    }

    /// Reads a key with its seats below all tenants: it is one tenant's, or nobody's. Whether there was an answer.
    pub async fn key(&self, key: u16) -> Result<bool> {
        let mut names = vec![name("key", format!("k{key}"))];
        names.extend((0..TENANTS).map(|t| name("seat", format!("t{t}/k{key}"))));
        let Some((answer, found)) = self.batch(&names).await? else {
            return Ok(false);
        };
        let all: Vec<&Element> = found.iter().flatten().collect();
        let wrong = || format!("agent {}: k{key} is of two tenants: {all:?}", self.index);
        let shown = match &all[..] {
            [] => None,
            [own, seat] if own.kind == "key" && own.tenant == seat.tenant => {
                let (own, number) = (value(own)?, n(&value(seat)?, "n")?);
                if n(&own, "n")? != number || own["owner"].as_str() != seat.tenant.as_deref() {
                    return Err(wrong().into());
                }
                Some(number)
            }
            _ => return Err(wrong().into()),
        };
        self.judge(&answer, Subject::Key(key), shown)?;
        Ok(true)
    }

    /// Reads a counter by itself.
    pub async fn counter(&self, tenant: u16) -> Result<()> {
        let url = self.agent.url(&format!("/v1/contexts/counter/t{tenant}"));
        let Some(answer) = self.ask(self.agent.client().get(url)).await? else {
            return Ok(());
        };
        if answer.status == StatusCode::NOT_FOUND {
            return self.judge(&answer, Subject::Counter(tenant), None);
        }
        let value: Value = serde_json::from_str(&answer.body)?;
        let version = answer.version()?;
        self.judge(&answer, Subject::Version(tenant), Some(version))?;
        self.judge(&answer, Subject::Counter(tenant), Some(n(&value, "n")?))
    }

    /// Reads what a claim is about. Whether there was an answer.
    pub async fn subject(&self, subject: Subject) -> Result<bool> {
        match subject {
            Subject::Key(key) => self.key(key).await,
            Subject::Counter(tenant)
            | Subject::Account(tenant)
            | Subject::Notice(tenant)
            | Subject::Version(tenant)
            | Subject::Plan { of: tenant, .. } => self.tenant(tenant).await,
        }
    }

    /// Reads without end until it is to stop.
    pub async fn run(self) -> Result<()> {
        while !self.counts.is_over() {
            for i in 0..TENANTS.max(KEYS) {
                self.tenant(i % TENANTS).await?;
                self.counter(i * 7 % TENANTS).await?;
                self.key(i % KEYS).await?;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        Ok(())
    }
}
