"""A greenhouse: beds, plantings, gardeners and watering."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Day, Ref, Time, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Bed = Annotated[str, Ref("bed", "苗床", "bed")]
Planting = Annotated[str, Ref("planting", "种植", "planting")]
Gardener = Annotated[str, Ref("gardener", "园丁", "gardener")]
BedName = Annotated[str, Words("bed's name", "苗床名称", "place")]
GardenerName = Annotated[str, Words("gardener's name", "园丁姓名", "person")]
Crop = Annotated[
    str,
    Choice(
        "crop",
        "作物",
        {
            "tomato": ("tomatoes", "番茄"),
            "basil": ("basil", "罗勒"),
            "lettuce": ("lettuce", "生菜"),
            "pepper": ("peppers", "辣椒"),
            "squash": ("squash", "南瓜"),
        },
    ),
]
Seedlings = Annotated[int, Amount("number of seedlings", "株数", 2, 60)]
HarvestDay = Annotated[str, Day("harvest day", "采收日")]
Litres = Annotated[float, Amount("litres of water", "浇水升数", 0.5, 25.0, 0.5)]
WaterTime = Annotated[str, Time("watering time", "浇水时间")]
Task = Annotated[str, Words("chore", "杂务", "task")]


class Greenhouse(World):
    """One planting of a crop in each bed; a fallow bed takes none, a dry valve gives no water."""

    NAME = "greenhouse"
    TABLES = {
        "bed": Table("BE", "bed", "苗床", ("the {bed_name} bed", "{bed_name}苗床")),
        "planting": Table("PL", "planting", "种植", ("the {crop} in {bed}", "{bed}里的{crop}")),
        "gardener": Table("GA", "gardener", "园丁", ("{name}", "{name}")),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(4, 5)):
            new.row("gardener", name=new.words("person"), chore="")
        for _ in new.many(4, 6):
            bed = new.row(
                "bed",
                bed_name=new.words("place"),
                gardener=new.of("gardener"),
                rest=new.pick("in use", "in use", "in use", "fallow"),
                valve=new.pick("open", "open", "shut"),
                litres=0.5,
                watering_time=new.time(),
            )
            for crop in new.some(("tomato", "basil", "lettuce", "pepper", "squash"), 1, 3):
                new.row("planting", bed=bed, crop=crop, seedlings=new.number(2, 50), harvest_day=None)

    def broken(self) -> Iterator[str]:
        pairs = [(p["bed"], p["crop"]) for p in self.state["planting"].values()]
        if len(set(pairs)) < len(pairs):
            yield "a crop is planted twice in a bed"

    @finds("bed")
    def find_beds(self, bed_name: BedName) -> Result:
        """Find beds by name. | 按名称查找苗床。"""
        return self.found("bed", bed_name=bed_name)

    @finds(
        "planting",
        ("list the plantings of {bed_id}|see what grows in {bed_id}", "列出{bed_id}的种植"),
        ("The numbers of seedlings: {r.plantings.seedlings}.", "各有{r.plantings.seedlings}株。"),
    )
    def list_plantings(self, bed_id: Bed) -> Result:
        """List what is planted in a bed. | 列出苗床里的种植。"""
        self.get("bed", bed_id)
        return self.found("planting", bed=bed_id)

    @finds("gardener")
    def find_gardeners(self, name: GardenerName) -> Result:
        """Find gardeners by name. | 按姓名查找园丁。"""
        return self.found("gardener", name=name)

    @reads(
        ("count the seedlings in {bed_id}", "统计{bed_id}的株数"),
        ("There are {r.seedlings} seedlings.", "一共{r.seedlings}株。"),
    )
    def count_seedlings(self, bed_id: Bed) -> Result:
        """Count all seedlings of a bed. | 统计苗床里的总株数。"""
        self.get("bed", bed_id)
        return {"bed_id": bed_id, "seedlings": sum(p["seedlings"] for _, p in self.rows("planting", bed=bed_id))}

    @changes(
        ("plant {seedlings} seedlings of {crop} in {bed_id}", "在{bed_id}种{seedlings}株{crop}"),
        ("{seedlings} seedlings of {crop} are in {bed_id}.", "{bed_id}已种下{seedlings}株{crop}。"),
    )
    def plant_crop(self, bed_id: Bed, crop: Crop, seedlings: Seedlings) -> Result:
        """Plant a crop that the bed does not have yet. | 在苗床种下尚未有的作物。"""
        self.need(
            self.get("bed", bed_id)["rest"] == "in use",
            f"Bed {bed_id} lies fallow; wake it first.",
            f"苗床{bed_id}正在休耕，请先启用。",
            ("wake_bed", {"bed_id": bed_id}),
        )
        self.need(
            not self.rows("planting", bed=bed_id, crop=crop), "That crop grows there already.", "该作物已种在那里。"
        )
        return self.made("planting", bed=bed_id, crop=crop, seedlings=seedlings, harvest_day=None)

    @changes(
        ("thin {planting_id} to {seedlings} seedlings", "把{planting_id}疏到{seedlings}株"),
        ("{planting_id} has {seedlings} seedlings.", "{planting_id}有{seedlings}株。"),
    )
    def thin_planting(self, planting_id: Planting, seedlings: Seedlings) -> Result:
        """Reduce a planting to a smaller number of seedlings. | 把种植疏减到更少的株数。"""
        planting = self.get("planting", planting_id)
        self.need(
            seedlings < planting["seedlings"],
            f"There are {planting['seedlings']} seedlings only.",
            f"只有{planting['seedlings']}株。",
        )
        planting["seedlings"] = seedlings
        return {"planting_id": planting_id, "seedlings": seedlings}

    @changes(
        ("harvest {planting_id} on {harvest_day}", "把{planting_id}的采收日定在{harvest_day}"),
        ("{planting_id} is harvested on {harvest_day}.", "{planting_id}将于{harvest_day}采收。"),
        sets="harvest_day",
    )
    def set_harvest(self, planting_id: Planting, harvest_day: HarvestDay) -> Result:
        """Set the harvest day of a planting. | 设置种植的采收日。"""
        self.get("planting", planting_id)["harvest_day"] = harvest_day
        return {"planting_id": planting_id, "harvest_day": harvest_day}

    @changes(("pull out {planting_id}", "拔除{planting_id}"), ("{planting_id} is gone.", "{planting_id}已拔除。"))
    def pull_planting(self, planting_id: Planting) -> Result:
        """Pull a planting out of its bed. | 拔除一处种植。"""
        self.get("planting", planting_id)
        del self.state["planting"][planting_id]
        return {"planting_id": planting_id, "status": "gone"}

    @changes(
        ("water {bed_id} with {litres} litres at {watering_time}", "让{bed_id}在{watering_time}浇{litres}升水"),
        ("{bed_id} gets {litres} litres at {watering_time}.", "{bed_id}将在{watering_time}浇{litres}升水。"),
        sets="litres",
    )
    def set_watering(self, bed_id: Bed, litres: Litres, watering_time: WaterTime) -> Result:
        """Set how much and when a bed with an open valve is watered. | 设置阀门已开的苗床的浇水量和时间。"""
        bed = self.get("bed", bed_id)
        self.need(
            bed["valve"] == "open",
            f"The valve of {bed_id} is shut; open it first.",
            f"{bed_id}的阀门已关，请先打开。",
            ("open_valve", {"bed_id": bed_id}),
        )
        bed.update(litres=litres, watering_time=watering_time)
        return {"bed_id": bed_id, "litres": litres, "watering_time": watering_time}

    @changes(
        ("open the valve of {bed_id}", "打开{bed_id}的阀门"),
        ("The valve of {bed_id} is open.", "{bed_id}的阀门已打开。"),
    )
    def open_valve(self, bed_id: Bed) -> Result:
        """Open the valve of a bed. | 打开苗床的阀门。"""
        bed = self.get("bed", bed_id)
        self.need(bed["valve"] == "shut", "The valve is open already.", "阀门已经打开。")
        bed["valve"] = "open"
        return {"bed_id": bed_id, "valve": "open"}

    @changes(
        ("shut the valve of {bed_id}", "关上{bed_id}的阀门"), ("The valve of {bed_id} is shut.", "{bed_id}的阀门已关。")
    )
    def shut_valve(self, bed_id: Bed) -> Result:
        """Shut the valve of a bed. | 关上苗床的阀门。"""
        bed = self.get("bed", bed_id)
        self.need(bed["valve"] == "open", "The valve is shut already.", "阀门已经关上。")
        bed["valve"] = "shut"
        return {"bed_id": bed_id, "valve": "shut"}

    @changes(
        ("put {gardener_id} in charge of {bed_id}", "让{gardener_id}负责{bed_id}"),
        ("{gardener_id} looks after {bed_id}.", "{bed_id}由{gardener_id}负责。"),
        sets="gardener_id",
    )
    def assign_bed(self, bed_id: Bed, gardener_id: Gardener) -> Result:
        """Put a gardener in charge of a bed. | 指定苗床的负责园丁。"""
        self.get("gardener", gardener_id)
        self.get("bed", bed_id)["gardener"] = gardener_id
        return {"bed_id": bed_id, "gardener_id": gardener_id}

    @changes(
        ("ask {gardener_id} to {chore}", "让{gardener_id}去做{chore}"),
        ("{gardener_id} will {chore}.", "{gardener_id}会去做{chore}。"),
        sets="chore",
    )
    def give_chore(self, gardener_id: Gardener, chore: Task) -> Result:
        """Give a gardener a chore in place of the old one. | 给园丁派杂务，覆盖原来的。"""
        self.get("gardener", gardener_id)["chore"] = chore
        return {"gardener_id": gardener_id, "chore": chore}

    @changes(("wake {bed_id} from its rest", "启用{bed_id}"), ("{bed_id} is in use.", "{bed_id}已启用。"))
    def wake_bed(self, bed_id: Bed) -> Result:
        """Use a fallow bed again. | 重新启用休耕的苗床。"""
        bed = self.get("bed", bed_id)
        self.need(bed["rest"] == "fallow", "The bed is in use.", "该苗床正在使用。")
        bed["rest"] = "in use"
        return {"bed_id": bed_id, "rest": "in use"}
