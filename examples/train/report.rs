//! What a run leaves in its folder when it is over: scores, pictures, plots.

use std::time::Instant;

use anyhow::Result;
use candle_radfoam::data::Strategy;
use candle_radfoam::train::{Evaluation, ViewScore, evaluate_views};
use serde_json::json;

use super::{Memory, Run};
use crate::support::checkpoint::{CLOCK, RESULT, file_stems};
use crate::support::folder::write_json;
use crate::support::{memory, picture, plot};

/// Test views of which pictures are kept, and how many of them are on the sheet of them.
const PICTURES: usize = 16;
const SHEET: usize = 4;
/// Training views that are scored, evenly among them: whether a foam is over-fitted shows beside the test views.
const TRAINING_VIEWS: usize = 16;
/// Error maps are enlarged for their picture up to about this width in pixels.
const MAP_WIDTH: u32 = 640;

impl Run {
    /// Saves, scores the test views, and draws.
    pub fn finish(mut self) -> Result<()> {
        let cpu = self.cpu_seconds();
        self.save()?;
        self.interrupts.leave_at_once();
        if let Some(status) = self.interrupts.status() {
            std::process::exit(status);
        }
        let started = Instant::now();
        // The scores are worth more than the pictures: they are written even if one of these fails.
        let (evaluation, pictures) = self.evaluate()?;
        let render_seconds = started.elapsed().as_secs_f64();
        if let Some(evaluation) = &evaluation {
            // Of the views that were looked at on the way, so that the curve is one of the same views.
            let views: Vec<ViewScore> = evaluation.views.iter().step_by(self.look_stride()).cloned().collect();
            self.push_look(cpu, &Evaluation::of(views));
        }
        write_json(&self.folder.file(CLOCK)?, &self.clock(cpu))?;
        let training = self.score_training()?;
        self.write_result(cpu, evaluation.as_ref(), &training)?;
        pictures?;
        self.draw_plots()?;
        self.draw_error_map()?;
        println!("results in {} (test views rendered in {render_seconds:.1} s)", self.folder.path().display());
        let scores = evaluation.map_or("no views".into(), |Evaluation { psnr_db, ssim, views, .. }| {
            format!("PSNR {psnr_db:.2} dB, SSIM {ssim:.3} over {} views", views.len())
        });
        println!(
            "test: {scores}, {:.0} s, {} rays, {} cells",
            self.seconds(),
            self.trainer.num_rays(),
            self.trainer.foam().num_cells(),
        );
        Ok(())
    }

    /// Scores all test views, if there are any, and saves pictures of the first of them.
    fn evaluate(&self) -> Result<(Option<Evaluation>, Result<()>)> {
        let (trainer, folder) = (&self.trainer, &self.folder);
        let test = &trainer.dataset().test;
        if test.is_empty() {
            return Ok((None, Ok(())));
        }
        let names: Vec<&str> = test.iter().map(|view| view.name.as_str()).collect();
        let stems = file_stems(&names);
        let background = trainer.background().evaluation();
        let mut sheet = Vec::new();
        let mut pictures = Ok(());
        let evaluation = trainer.evaluate(|i, view, rendering| {
            let mut save = || -> Result<()> {
                let (stem, width, height) = (&stems[i], rendering.width, rendering.height);
                let truth = view.image.over(background);
                let picture = picture::comparison(rendering.rgb.as_flattened(), truth.as_flattened(), width, height)?;
                picture::save(&folder.file(&format!("test/{stem}.png"))?, &picture)?;
                let depth = picture::depth(&rendering.depth, width, height)?;
                picture::save(&folder.file(&format!("test/{stem}_depth.png"))?, &depth)?;
                if sheet.len() < SHEET {
                    sheet.push(picture);
                    picture::save(&folder.file("test.png")?, &picture::sheet(&sheet, 1)?)?;
                }
                Ok(())
            };
            if i < PICTURES && pictures.is_ok() {
                pictures = save();
            }
            Ok(())
        })?;
        Ok((Some(evaluation), pictures))
    }

    /// Scores some of the views that were trained on.
    fn score_training(&self) -> Result<Evaluation> {
        let (trainer, train) = (&self.trainer, &self.trainer.dataset().train);
        let views: Vec<_> = train.iter().step_by(train.len().div_ceil(TRAINING_VIEWS)).cloned().collect();
        let background = trainer.background().evaluation();
        Ok(evaluate_views(trainer.foam(), &views, background, &trainer.config().trace, |_, _, _| Ok(()))?)
    }

    fn write_result(
        &self,
        cpu_seconds: Option<f64>,
        evaluation: Option<&Evaluation>,
        training: &Evaluation,
    ) -> Result<()> {
        let saving = self.saver.costs;
        let trainer = &self.trainer;
        write_json(
            &self.folder.file(RESULT)?,
            &json!({
                "psnr_db": evaluation.map(|e| e.psnr_db),
                "ssim": evaluation.map(|e| e.ssim),
                "train_psnr_db": training.psnr_db,
                "train_ssim": training.ssim,
                "views": evaluation.map_or(0, |e| e.views.len()),
                "seconds": self.seconds(),
                "cpu_seconds": cpu_seconds,
                "steps": trainer.step_count(),
                "rays": trainer.num_rays(),
                "cells": trainer.foam().num_cells(),
                "sampling": trainer.config().sampler.strategy,
                "checkpoints": saving.count,
                "seconds_waited_for_checkpoints": saving.waited,
                "longest_wait_for_a_checkpoint": saving.longest,
                "cpu_seconds_of_checkpoints": saving.beside,
                "peak_memory_bytes": memory::most_resident(),
                "curve": self.curve,
                "per_view": evaluation.map_or(&[][..], |e| &e.views),
            }),
        )
    }

    fn draw_plots(&self) -> Result<()> {
        if !self.losses.is_empty() {
            let losses = plot::Series { name: "training loss".into(), points: self.losses.clone() };
            plot::plot_curves(&self.folder.file("loss.svg")?, "Loss", "step", "mean loss of a batch", &[losses], true)?;
        }
        if !self.memory.is_empty() {
            let series = |name: &str, of: fn(&Memory) -> f64| plot::Series {
                name: name.into(),
                points: self.memory.iter().map(|at| (at.seconds, of(at))).collect(),
            };
            let curves =
                [series("resident memory, MB", |at| at.bytes as f64 / 1e6), series("open files", |at| at.files as f64)];
            let path = self.folder.file("memory.svg")?;
            plot::plot_curves(&path, "Memory and open files", "seconds of training", "MB, files", &curves, false)?;
        }
        if self.curve.is_empty() {
            return Ok(());
        }
        let points = self.curve.iter().map(|look| (look.seconds, look.psnr_db)).collect();
        let psnr = plot::Series { name: "test views".into(), points };
        plot::plot_curves(&self.folder.file("psnr.svg")?, "PSNR", "seconds of training", "dB", &[psnr], false)
    }

    fn draw_error_map(&self) -> Result<()> {
        let sampler = self.trainer.sampler();
        if sampler.config().strategy == Strategy::None {
            return Ok(());
        }
        let maps = (0..self.trainer.dataset().train.len().min(PICTURES))
            .map(|view| Ok(sampler.map_image(view)?.to_vec2::<f32>()?))
            .collect::<Result<Vec<_>>>()?;
        let most = picture::most_error(maps.iter().flatten().flatten().copied());
        let picture = |map: &Vec<Vec<f32>>| {
            let (width, height) = (map.first().map_or(0, Vec::len) as u32, map.len() as u32);
            let picture = picture::error_map(&map.concat(), width, height, most)?;
            // An entry as large as the patch of pixels that it stands for, if there is room for that.
            let factor = sampler.config().map_patch().min((MAP_WIDTH / width.max(1)).max(1));
            Ok(picture::enlarged(&picture, factor))
        };
        let pictures = maps.iter().map(picture).collect::<Result<Vec<_>>>()?;
        picture::save(&self.folder.file("error_map.png")?, &picture::sheet(&pictures, 4)?)
    }
}
