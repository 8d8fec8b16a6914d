//! R6: one change, and when each of many followers of one agent has it.

use super::push::Pusher;
use crate::clock;
use crate::report::percentile;
use std::time::{Duration, Instant};
use system_tests::Result;
use tokio::sync::mpsc;

/// Followers.
pub const FOLLOWERS: usize = 500;

/// Watches that began now, each of which says when it is told of something.
async fn follow(port: u16) -> Result<mpsc::UnboundedReceiver<Instant>> {
    let (told, heard) = mpsc::unbounded_channel();
    let client = system_tests::client()?;
    for _ in 0..FOLLOWERS {
        let url = format!("http://127.0.0.1:{port}/v1/watch?follow=true&after=now");
        let mut response = client.get(url).send().await?.error_for_status()?;
        // The comment at the beginning: it is heard from now on once a state came.
        let mut begun = String::new();
        while !begun.contains("event: state") {
            let chunk = response.chunk().await?.ok_or("a watch ended")?;
            begun += &String::from_utf8_lossy(&chunk);
        }
        let told = told.clone();
        tokio::spawn(async move {
            while let Ok(Some(chunk)) = response.chunk().await {
                let is_change = chunk.windows(10).any(|w| w == b"event: put");
                if is_change && told.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
    }
    Ok(heard)
}

/// Milliseconds in which 99 of 100 tellings arrived, over these changes, none of which was there before.
pub async fn p99(pusher: &mut Pusher, port: u16, changes: std::ops::Range<u32>) -> Result<f64> {
    let mut heard = follow(port).await?;
    let mut times = Vec::with_capacity(changes.len() * FOLLOWERS);
    for change in changes {
        clock::go_on()?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        // From the hub's point of view: it includes the push and its commit.
        let begin = Instant::now();
        pusher.push(&[change % 1_000], change).await?;
        for _ in 0..FOLLOWERS {
            let wait = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await;
            let told = wait
                .map_err(|_| "a follower was not told")?
                .ok_or("a watch ended")?;
            times.push(told.saturating_duration_since(begin));
        }
    }
    Ok(percentile(&times, 0.99))
}
