//! A layer for tower services that bounds handlers which compute, or loop: a request gets an answer within its time
//! limit, and meanwhile others on the same kernel thread get theirs.
//!
//! `cargo run --release --example tower`. tower's own `Timeout` cannot do this: its timer is looked at only when the
//! handler awaits something.

use inger::future::preemptive;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Gives each request `limit`, in turns of `quantum`.
#[derive(Clone, Copy)]
struct LimitLayer {
    limit: Duration,
    quantum: Duration,
}

#[derive(Clone)]
struct Limit<S> {
    inner: S,
    layer: LimitLayer,
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Limit<S> {
        Limit { inner, layer: *self }
    }
}

impl<S, Request> Service<Request> for Limit<S>
where
    S: Service<Request, Error = Failure>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let LimitLayer { limit, quantum } = self.layer;
        let response = preemptive(self.inner.call(request), quantum);
        // The errors: too late; no libset left; the handler's own.
        Box::pin(async move { tokio::time::timeout(limit, response).await?? })
    }
}

/// Takes long for large primes.
async fn smallest_factor(number: u64) -> Result<u64, Failure> {
    if number < 2 {
        return Err("a number greater than 1, please".into());
    }
    let factors = 2..=number.isqrt();
    Ok(factors.into_iter().find(|factor| number % factor == 0).unwrap_or(number))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let layer = LimitLayer { limit: Duration::from_millis(50), quantum: Duration::from_micros(200) };
    let service = ServiceBuilder::new().layer(layer).service(service_fn(smallest_factor));
    let start = Instant::now();
    let requests = [18_446_744_073_709_551_557, 91, 18_446_744_073_709_551_533, 1_000_003, 1].map(|number: u64| {
        let service = service.clone();
        tokio::spawn(async move { (number, service.oneshot(number).await, start.elapsed()) })
    });
    for request in requests {
        let (number, answer, time) = request.await.expect("a task that does not panic");
        let answer = answer.map_or_else(|failure| failure.to_string(), |factor| factor.to_string());
        println!("{number:>20}: {answer:<32} after {:.1} ms", time.as_secs_f64() * 1e3);
    }
}
