//! How fast a training pass goes.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lumbre_abi::{Ctx, Result, callback};

/// Counts what passes by, and looks at the clock.
pub struct Throughput {
    path: Option<PathBuf>,
    every: u64,
    begun: Instant,
    samples: u64,
    batches: u64,
    lines: Option<Lines>,
}

/// Logs `samples_per_second` and `batches_per_second` of each training pass at `on_train_end`, and
/// writes them to a file: one object of JSON a line, every so many batches and at the end of a pass.
///
/// A thread of its own writes; it has ended when the fit has.
#[callback(weight = 1, logs("samples_per_second", "batches_per_second"))]
impl Throughput {
    #[defaults(path = None, every = 100)]
    pub fn new(path: Option<PathBuf>, every: u64) -> Result<Self> {
        if every == 0 {
            return Err("Throughput: every is 1 or more; got 0".into());
        }
        Ok(Self {
            path,
            every,
            begun: Instant::now(),
            samples: 0,
            batches: 0,
            lines: None,
        })
    }

    fn on_fit_begin(&mut self) -> Result {
        self.lines = match &self.path {
            Some(path) => {
                let file = File::create(path).map_err(|error| {
                    format!("Throughput cannot write to {}: {error}", path.display())
                })?;
                Some(Lines::to(file)?)
            }
            None => None,
        };
        Ok(())
    }

    fn on_train_begin(&mut self) {
        (self.samples, self.batches) = (0, 0);
        self.begun = Instant::now();
    }

    fn on_train_batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        self.samples += ctx.batch_size()?.unwrap_or(0);
        self.batches += 1;
        if self.batches.is_multiple_of(self.every) {
            self.write(ctx, "batch");
        }
        Ok(())
    }

    fn on_train_end(&mut self, ctx: &mut Ctx<'_>) -> Result {
        let (samples, batches) = self.rates();
        ctx.log("samples_per_second", samples)?;
        ctx.log("batches_per_second", batches)?;
        self.write(ctx, "pass");
        Ok(())
    }

    fn on_fit_end(&mut self) -> Result {
        match self.lines.take() {
            Some(lines) => Ok(lines.end()?),
            None => Ok(()),
        }
    }

    fn on_exception(&mut self) {
        // The run has its error; one of the file would only hide it.
        self.lines.take();
    }

    fn rates(&self) -> (f64, f64) {
        // A clock may stand still for a short while.
        let seconds = self
            .begun
            .elapsed()
            .max(Duration::from_nanos(1))
            .as_secs_f64();
        (self.samples as f64 / seconds, self.batches as f64 / seconds)
    }

    fn write(&self, ctx: &Ctx<'_>, after: &str) {
        let Some(lines) = &self.lines else {
            return;
        };
        let (samples_per_second, batches_per_second) = self.rates();
        lines.send(format!(
            "{{\"after\": \"{after}\", \"epoch\": {}, \"step\": {}, \"samples\": {}, \"batches\": {}, \
             \"samples_per_second\": {samples_per_second:?}, \
             \"batches_per_second\": {batches_per_second:?}}}",
            ctx.epoch(),
            ctx.step_count(),
            self.samples,
            self.batches,
        ));
    }
}

/// A thread that writes lines to a file. It is waited for, at the latest when this is dropped.
struct Lines {
    sender: Option<Sender<String>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Lines {
    fn to(file: File) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let thread = thread::Builder::new()
            .name("Throughput".into())
            .spawn(move || write_all(&receiver, BufWriter::new(file)))?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
        })
    }

    fn send(&self, line: String) {
        if let Some(sender) = &self.sender {
            // A thread that has given up says why when it is waited for.
            let _ = sender.send(line);
        }
    }

    /// Wait until all is written.
    fn end(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        // Without a sender the thread comes to its end.
        self.sender = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(io::Error::other("the thread of Throughput panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

fn write_all(lines: &Receiver<String>, mut file: impl Write) -> io::Result<()> {
    // What is there is written together, and can be read as soon as nothing else waits.
    while let Ok(first) = lines.recv() {
        for line in std::iter::once(first).chain(lines.try_iter()) {
            writeln!(file, "{line}")?;
        }
        file.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lumbre_abi::Hook;
    use lumbre_abi::testing::{Mounted, Run};

    use super::*;

    fn pass(run: &mut Run, throughput: &Mounted<Throughput>, batches: u64) {
        run.fire(throughput, Hook::TrainBegin).unwrap();
        for _ in 0..batches {
            run.batch_size = Some(4);
            run.fire(throughput, Hook::TrainBatchEnd).unwrap();
            run.next_batch();
        }
        run.fire(throughput, Hook::TrainEnd).unwrap();
    }

    #[test]
    fn it_logs_both_rates() {
        let (mut run, throughput) = (Run::new(), Mounted::new(Throughput::new(None, 1).unwrap()));
        run.fire(&throughput, Hook::FitBegin).unwrap();
        pass(&mut run, &throughput, 3);
        let names: Vec<_> = run.logged.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["train_samples_per_second", "train_batches_per_second"]
        );
        let (samples, batches) = (run.logged[0].1, run.logged[1].1);
        assert!(batches > 0.0 && samples.is_finite());
        // The clock went on a little between the two of one line only.
        assert!(
            (samples / batches - 4.0).abs() < 1e-9,
            "{samples} {batches}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_made_ends_the_run() {
        let path = PathBuf::from("/no/such/folder/rates.jsonl");
        let throughput = Mounted::new(Throughput::new(Some(path), 1).unwrap());
        let trouble = Run::new().fire(&throughput, Hook::FitBegin).unwrap_err();
        let message = trouble.to_string();
        assert!(
            message.starts_with("Throughput cannot write to "),
            "{message}"
        );
        assert!(
            message.contains("/no/such/folder/rates.jsonl: "),
            "{message}"
        );
    }
}
