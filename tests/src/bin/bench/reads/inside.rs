//! R1, R2: reads in the process of the gateway, beside a map of the standard library with the same data.

use super::push::{KIND, key, value};
use crate::clock;
use spoke_agent::reader::embedded::Embedded;
use spoke_agent::reader::table::TableReader;
use spoke_agent::reader::{Answer, ContextReader};
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use system_tests::Result;

/// The map: what a gateway would keep if it had nothing else to think of.
pub type Map = HashMap<String, Arc<[u8]>>;

/// The same contexts in a map.
pub fn map(contexts: u32) -> Map {
    let pair = |number| (key(number), Arc::from(value(number, 0).into_bytes()));
    (0..contexts).map(pair).collect()
}

/// Keys in random order, each with memory of its own.
pub fn keys(contexts: u32, count: usize, seed: u64) -> Vec<String> {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    (0..count)
        .map(|_| key(random.random_range(0..contexts)))
        .collect()
}

/// Nanoseconds at these shares of all reads.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The median.
    pub p50: f64,
    /// One in a hundred takes longer.
    pub p99: f64,
}

fn spread(mut nanos: Vec<u32>) -> Spread {
    nanos.sort_unstable();
    let at = |share: f64| f64::from(nanos[(nanos.len() as f64 * share) as usize]);
    Spread {
        p50: at(0.5),
        p99: at(0.99),
    }
}

fn timed(keys: &[String], mut read: impl FnMut(&str) -> bool) -> Result<Spread> {
    let mut nanos = Vec::with_capacity(keys.len());
    for key in keys {
        clock::go_on()?;
        let begin = Instant::now();
        let is_there = read(key);
        nanos.push(begin.elapsed().as_nanos() as u32);
        if !is_there {
            return Err(format!("the key {key} is not there").into());
        }
    }
    Ok(spread(nanos))
}

/// Reads of the map.
pub fn of_map(map: &Map, keys: &[String]) -> Result<Spread> {
    timed(keys, |key| match map.get(key) {
        Some(value) => black_box(value.clone()).len() > black_box(0),
        None => false,
    })
}

/// Reads of the agent in this process.
pub fn of_reader(reader: &Embedded, keys: &[String]) -> Result<Spread> {
    timed(keys, |key| {
        match black_box(reader.look_up(KIND, key)).answer {
            Answer::Found(found) => found.bytes().len() > black_box(0),
            _ => false,
        }
    })
}

/// Reads of the cache before a table.
pub async fn of_table(reader: &TableReader, keys: &[String]) -> Result<Spread> {
    let mut nanos = Vec::with_capacity(keys.len());
    for key in keys {
        clock::go_on()?;
        let begin = Instant::now();
        let is_there = match black_box(reader.get(KIND, key).await).answer {
            Answer::Found(found) => found.bytes().len() > black_box(0),
            _ => false,
        };
        nanos.push(begin.elapsed().as_nanos() as u32);
        if !is_there {
            return Err(format!("the key {key} is not there").into());
        }
    }
    Ok(spread(nanos))
}
