//! The text of `/metrics`, taken apart.

use std::collections::{BTreeMap, BTreeSet};
use system_tests::Result;
use system_tests::hub::Hub;
use system_tests::region::Agent;

/// What one program answered.
#[derive(Debug, Default)]
pub struct Exposition {
    /// All of it.
    pub text: String,
    /// HELP by name.
    pub help: BTreeMap<String, String>,
    /// TYPE by name.
    pub types: BTreeMap<String, String>,
    /// Each line with a value: name, labels as they stand, value.
    pub samples: Vec<(String, String, f64)>,
}

impl Exposition {
    /// Takes a text apart.
    pub fn parse(text: String) -> Result<Self> {
        let mut all = Self::default();
        for line in text.lines().filter(|l| !l.is_empty()) {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("#"), Some("HELP"), Some(name)) => {
                    let help = words.next().unwrap_or_default();
                    all.help.insert(name.into(), help.into());
                }
                (Some("#"), Some("TYPE"), Some(name)) => {
                    let sort = words.next().unwrap_or_default();
                    all.types.insert(name.into(), sort.into());
                }
                _ => {
                    let (series, value) = line.rsplit_once(' ').ok_or(line)?;
                    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                    let labels = labels.trim_end_matches('}').to_owned();
                    all.samples.push((name.to_owned(), labels, value.parse()?));
                }
            }
        }
        all.text = text;
        Ok(all)
    }

    /// The value of the first series of this name whose labels contain `labels`.
    pub fn value(&self, name: &str, labels: &str) -> Option<f64> {
        let mut found = self
            .samples
            .iter()
            .filter(|(n, l, _)| n == name && l.contains(labels));
        found.next().map(|(_, _, value)| *value)
    }

    /// The name of the family to which a sample belongs.
    pub fn family<'a>(&self, sample: &'a str) -> &'a str {
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| sample.strip_suffix(end));
        of_histogram
            .filter(|name| self.types.contains_key(*name))
            .unwrap_or(sample)
    }

    /// All names of labels.
    pub fn label_names(&self) -> BTreeSet<String> {
        let labels = self.samples.iter().flat_map(|(_, l, _)| l.split("\","));
        let name = |pair: &str| pair.split_once('=').map(|(name, _)| name.to_owned());
        labels.filter_map(name).collect()
    }
}

/// What a hub answers.
pub async fn of_hub(hub: &Hub) -> Result<Exposition> {
    let client = system_tests::client()?;
    let answer = client.get(hub.url("/metrics")).send().await?;
    Exposition::parse(answer.text().await?)
}

/// What an agent answers.
pub async fn of_agent(agent: &Agent) -> Result<Exposition> {
    let answer = agent.client().get(agent.url("/metrics")).send().await?;
    Exposition::parse(answer.text().await?)
}
