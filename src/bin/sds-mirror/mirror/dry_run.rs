//! `--dry-run`: prints what a pass would do, without doing it.

use std::collections::BTreeMap;
use std::sync::Arc;

use sds_agent::text::escape;

use super::work::{blocking, to_write};
use super::{End, Mirror};
use crate::cli::print;
use crate::content;
use crate::output::{Outcome, WriteError};

impl Mirror {
    /// Prints what would change.
    ///
    /// # Errors
    /// A folder can't be read, or standard output can't be written.
    pub(super) async fn dry_run(&mut self) -> Result<End, String> {
        let plan = self.plan();
        let mut lines = BTreeMap::new();
        let mut unchanged = 0;
        for (id, folder) in &plan.granted {
            let Some(content) = self.pending.remove(id) else {
                continue;
            };
            let (output, name) = (Arc::clone(&self.output), folder.clone());
            let (rejected, outcome) = blocking(move || {
                let rejected = content::rejected(&output.path().join(&name), &content.files);
                let outcome = to_write(&output, &name, &content, &rejected)
                    .map_err(WriteError::from)
                    .and_then(|files| match files.is_empty() {
                        true => Ok(None),
                        false => output.compare(&name, &files).map(Some),
                    });
                (rejected, outcome)
            })
            .await;
            if !rejected.is_empty() {
                self.notes
                    .rejected
                    .insert(id.clone(), super::work::text_of(&rejected));
            }
            let action = match outcome {
                Ok(Some(Outcome::Made)) => "create",
                Ok(Some(Outcome::Changed)) => "change",
                Ok(Some(Outcome::Same)) => {
                    unchanged += 1;
                    continue;
                }
                // All content is rejected, which is one of the problems.
                Ok(None) => continue,
                Err(error) => return Err(format!("folder {folder}: {error}")),
            };
            lines.insert(folder.clone(), format!("{action}  {folder}  ({id})"));
        }
        for folder in &plan.remove {
            lines.insert(folder.clone(), format!("remove  {folder}"));
        }
        for folder in plan.keep.keys() {
            lines.insert(folder.clone(), format!("keep    {folder}"));
        }
        let problems = self.find_problems(&plan);
        let mut lines: Vec<String> = lines.into_values().collect();
        let problems_found = problems.iter();
        lines.extend(
            problems_found.map(|(subject, one)| format!("problem {subject}: {}", one.text)),
        );
        lines.push(format!("{unchanged} unchanged"));
        let text: String = lines
            .iter()
            .map(|line| format!("{}\n", escape(line)))
            .collect();
        self.problems = problems;
        print(text.as_bytes()).map(|()| self.end())
    }
}
