"""The domains: those that training data are made of, and those that are only measured on."""

from __future__ import annotations

from collections.abc import Mapping

from data_recipes.worlds.domains.bakery import Bakery
from data_recipes.worlds.domains.clinic import Clinic
from data_recipes.worlds.domains.forum import Forum
from data_recipes.worlds.domains.greenhouse import Greenhouse
from data_recipes.worlds.domains.home import Home
from data_recipes.worlds.domains.hotel import Hotel
from data_recipes.worlds.domains.kanban import Kanban
from data_recipes.worlds.domains.ledger import Ledger
from data_recipes.worlds.domains.library import Library
from data_recipes.worlds.domains.marina import Marina
from data_recipes.worlds.domains.motorpool import Motorpool
from data_recipes.worlds.domains.museum import Museum
from data_recipes.worlds.domains.observatory import Observatory
from data_recipes.worlds.domains.packages import Packages
from data_recipes.worlds.domains.parcels import Parcels
from data_recipes.worlds.domains.photos import Photos
from data_recipes.worlds.domains.school import School
from data_recipes.worlds.domains.warehouse import Warehouse
from data_recipes.worlds.world import World


def _named(*worlds: type[World]) -> Mapping[str, type[World]]:
    return {world.NAME: world for world in worlds}


TRAINING = _named(
    Clinic,
    Forum,
    Greenhouse,
    Home,
    Hotel,
    Kanban,
    Ledger,
    Library,
    Motorpool,
    Packages,
    Parcels,
    Photos,
    School,
    Warehouse,
)
HELDOUT = _named(Bakery, Marina, Museum, Observatory)
