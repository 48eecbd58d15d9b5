"""ondine: a pipeline over a data frame, with its adaptive concurrency (up to 100).

A session is resumed from its latest checkpoint, where there is one.
"""

import ondine
import pandas as pd
from ondine.adapters.checkpoint_storage import LocalFileCheckpointStorage
from order import FOLDER, MODEL, ORDER, TEXTS, report

CHECKPOINTS = FOLDER / "checkpoints"

pipeline = (
    ondine.PipelineBuilder.create()
    .from_dataframe(pd.DataFrame({"text": TEXTS}), input_columns=["text"], output_columns=["label"])
    .with_prompt("{text}", system_message=ORDER.instructions)
    .with_llm(provider="openai_compatible", model=MODEL, base_url=ORDER.url, api_key=ORDER.key)
    .with_batch_size(ORDER.pack)
    .with_concurrency(100)
    .with_adaptive_concurrency(True)
    .with_checkpoint_dir(str(CHECKPOINTS))
    .with_progress_mode("none")
    .build()
)
kept = LocalFileCheckpointStorage(CHECKPOINTS).list_checkpoints()
result = pipeline.execute(resume_from=max(kept, key=lambda one: one.timestamp).session_id if kept else None)
report(result.data["label"])
