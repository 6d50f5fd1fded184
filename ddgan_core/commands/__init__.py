"""What each command does with its arguments; returns the exit status. It imports what it needs: --help is quick."""

from ddgan_core.commands import bench, main, study

HANDLERS = {f.__name__: f for f in (
    main.train, main.sample, main.evaluate, main.calibrate, main.anatomy, main.information, main.bands, main.critics,
    main.report, main.doctor,
    study.study_status, study.study_run, study.study_table, study.study_slurm, study.study_export, study.study_import,
    study.study_ship, study.study_classifier,
    bench.bench_metrics, bench.bench_network, bench.bench_training, bench.bench_ddpm, bench.bench_sampling,
    bench.bench_limits, bench.bench_workers,
)}  # fmt: skip
