"""Running a search: the one loop, `search`, run folders, and the recipe of a network."""

from evoq_moo.runs._loop import BudgetSpentError, Record, run_algorithm
from evoq_moo.runs._run_search import SearchRun, run_search
from evoq_moo.runs._search import search
from evoq_moo.runs.folder import (
    RunSettings,
    check_settings,
    cost_files,
    execute,
    load_costs,
    load_front,
    read_settings,
    recipe_of,
    table_copy,
)
from evoq_moo.runs.recipe import RECIPE_FILE, Recipe, read_recipe, write_recipe

__all__ = [
    "RECIPE_FILE",
    "BudgetSpentError",
    "Recipe",
    "Record",
    "RunSettings",
    "SearchRun",
    "check_settings",
    "cost_files",
    "execute",
    "load_costs",
    "load_front",
    "read_recipe",
    "read_settings",
    "recipe_of",
    "run_algorithm",
    "run_search",
    "search",
    "table_copy",
    "write_recipe",
]
