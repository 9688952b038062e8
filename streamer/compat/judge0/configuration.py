"""What ``GET /config_info`` tells: our configuration under Judge0's names."""

from __future__ import annotations

from typing import Any, Final

import streamer
from streamer.compat.judge0.request import LIMITS, MOST_RUNS

__all__ = ["MOST_IN_BATCH", "config_info"]

MOST_IN_BATCH: Final = 20


def config_info(config: streamer.Config) -> dict[str, Any]:
    told: dict[str, Any] = {
        "maintenance_mode": False,
        "enable_wait_result": True,
        "enable_compiler_options": False,
        "allowed_languages_for_compile_options": [],
        "enable_command_line_arguments": True,
        "enable_submission_delete": True,
        "enable_callbacks": False,
        "callbacks_max_tries": 0,
        "callbacks_timeout": 0.0,
        "enable_additional_files": False,
        "max_queue_size": config.queue.max_waiting,
        "cpu_extra_time": 0.0,
        "max_cpu_extra_time": config.limits.max.cpu_time_s,
        "enable_per_process_and_thread_time_limit": False,
        "allow_enable_per_process_and_thread_time_limit": False,
        "enable_per_process_and_thread_memory_limit": False,
        "allow_enable_per_process_and_thread_memory_limit": False,
        "number_of_runs": 1,
        "max_number_of_runs": MOST_RUNS,
        "redirect_stderr_to_stdout": False,
        "max_extract_size": 0,
        "enable_batched_submissions": True,
        "max_submission_batch_size": MOST_IN_BATCH,
        "submission_cache_duration": 0.0,
        "use_docs_as_homepage": False,
        "allow_enable_network": config.sandbox.network != "none",
        "enable_network": False,
    }
    for name, (ours, units, _) in LIMITS.items():
        usual, most = (
            getattr(one, ours) / units for one in (config.limits.default, config.limits.max)
        )
        whole = not ours.endswith("_s")
        told[name] = int(usual) if whole else usual
        told[f"max_{name}"] = int(most) if whole else most
    return told
