"""What a model's concepts look like: rank, overlap, attention, roles, causes and health, as numbers and pages.

analysis = analyze("runs/mine", texts)
write_analysis(analysis, "runs/mine/analysis")
"""

from concept_encoder.analysis.analyze import analyze, geometry, geometry_over_training, loss_history
from concept_encoder.analysis.compare import compare, comparison_report, write_comparison
from concept_encoder.analysis.key_figures import key_numbers
from concept_encoder.analysis.material import Material, held_out_material, run_of
from concept_encoder.analysis.present import concept_report, read_analysis, write_analysis
from concept_encoder.analysis.report import Number, Report
from concept_encoder.analysis.subject import Subject, load_subject
from concept_encoder.data.conllu import read_conllu

__all__ = [
    "Material",
    "Number",
    "Report",
    "Subject",
    "analyze",
    "compare",
    "comparison_report",
    "concept_report",
    "geometry",
    "geometry_over_training",
    "held_out_material",
    "key_numbers",
    "load_subject",
    "loss_history",
    "read_analysis",
    "read_conllu",
    "run_of",
    "write_analysis",
    "write_comparison",
]
