"""A parcel service: depots, customers, parcels on their way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Day, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Depot = Annotated[str, Ref("depot", "网点", "depot")]
Payer = Annotated[str, Ref("sender", "寄件人", "sender")]
Parcel = Annotated[str, Ref("parcel", "包裹", "parcel")]
DepotTown = Annotated[str, Words("depot's town", "网点所在镇", "town")]
SenderName = Annotated[str, Words("sender's name", "寄件人姓名", "person")]
Weight = Annotated[float, Amount("weight in kilograms", "重量公斤数", 0.5, 30.0, 0.5)]
Service = Annotated[
    str,
    Choice(
        "service",
        "服务类型",
        {"economy": ("economy", "经济"), "express": ("express", "特快"), "night": ("night delivery", "夜间配送")},
    ),
]
Door = Annotated[str, Words("instruction for the courier", "给快递员的说明", "note")]
DropDay = Annotated[str, Day("delivery day", "派送日")]
Cover = Annotated[int, Amount("insured value", "保价金额", 50, 950, 50)]
Recipient = Annotated[str, Words("recipient's name", "收件人姓名", "person")]


class Parcels(World):
    """A held parcel does not move; express parcels weigh at most 20 kilograms."""

    NAME = "parcels"
    TABLES = {
        "depot": Table("DP", "depot", "网点", ("the {town} depot", "{town}网点")),
        "sender": Table("SE", "sender", "寄件人", ("{name}", "{name}")),
        "parcel": Table("PA", "parcel", "包裹", ("{sender}'s parcel to {recipient}", "{sender}寄给{recipient}的包裹")),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(4, 6)):
            new.row(
                "depot",
                town=new.words("town"),
                shelves=new.number(20, 300),
                traffic=new.pick("normal", "normal", "normal", "stopped"),
            )
        for _ in range(new.number(3, 5)):
            sender = new.row("sender", name=new.words("person"), credit=new.number(10, 200))
            for _ in new.many(1, 3):
                new.row(
                    "parcel",
                    sender=sender,
                    recipient=new.words("person"),
                    depot=new.of("depot"),
                    weight=new.number(1, 40) / 2,
                    service="economy",
                    instruction="",
                    delivery_day=None,
                    insured_value=0,
                    hold=new.pick("no", "no", "no", "yes"),
                )

    def broken(self) -> Iterator[str]:
        if any(p["service"] == "express" and p["weight"] > 20 for p in self.state["parcel"].values()):
            yield "an express parcel that is too heavy"

    def _moving(self, parcel_id: str) -> None:
        self.need(
            self.get("parcel", parcel_id)["hold"] == "no",
            f"Parcel {parcel_id} is held; free it first.",
            f"包裹{parcel_id}已扣留，请先放行。",
            ("free_parcel", {"parcel_id": parcel_id}),
        )

    @finds("depot")
    def find_depots(self, town: DepotTown) -> Result:
        """Find depots by town. | 按镇名查找网点。"""
        return self.found("depot", town=town)

    @finds("sender")
    def find_senders(self, name: SenderName) -> Result:
        """Find senders by name. | 按姓名查找寄件人。"""
        return self.found("sender", name=name)

    @finds(
        "parcel",
        ("list the parcels of {sender_id}|look up what {sender_id} has on the way", "列出{sender_id}的包裹"),
        ("They go to {r.parcels.recipient}.", "收件人有{r.parcels.recipient}。"),
    )
    def list_parcels(self, sender_id: Payer) -> Result:
        """List the parcels of a sender. | 列出寄件人的包裹。"""
        self.get("sender", sender_id)
        return self.found("parcel", sender=sender_id)

    @reads(
        ("count the free shelves of {depot_id}", "查一下{depot_id}的空架数"),
        ("It has {r.shelves} free shelves.", "有{r.shelves}个空架。"),
    )
    def count_shelves(self, depot_id: Depot) -> Result:
        """Count the free shelves of a depot. | 查询网点的空架数。"""
        return {"depot_id": depot_id, "shelves": self.get("depot", depot_id)["shelves"]}

    @changes(
        (
            "accept a parcel of {weight} kilograms from {sender_id} to {recipient} at {depot_id}",
            "在{depot_id}收下{sender_id}寄给{recipient}的{weight}公斤包裹",
        ),
        ("The parcel to {recipient} is accepted at {depot_id}.", "寄给{recipient}的包裹已在{depot_id}收下。"),
    )
    def accept_parcel(
        self, sender_id: Payer, recipient: Recipient, depot_id: Depot, weight: Weight, instruction: Door = ""
    ) -> Result:
        """Accept a parcel at a depot with traffic. | 在正常运行的网点收下包裹。"""
        self.get("sender", sender_id)
        self.need(
            self.get("depot", depot_id)["traffic"] == "normal",
            f"Depot {depot_id} is stopped; restart it first.",
            f"网点{depot_id}已停运，请先恢复。",
            ("restart_depot", {"depot_id": depot_id}),
        )
        return self.made(
            "parcel",
            sender=sender_id,
            recipient=recipient,
            depot=depot_id,
            weight=weight,
            service="economy",
            instruction=instruction,
            delivery_day=None,
            insured_value=0,
            hold="no",
        )

    @changes(
        ("forward {parcel_id} to {depot_id}|send {parcel_id} on to {depot_id}", "把{parcel_id}转到{depot_id}"),
        ("{parcel_id} goes to {depot_id}.", "{parcel_id}已转往{depot_id}。"),
        sets="depot_id",
    )
    def forward_parcel(self, parcel_id: Parcel, depot_id: Depot) -> Result:
        """Send a parcel on to another depot. | 把包裹转往另一个网点。"""
        self._moving(parcel_id)
        self.need(self.get("depot", depot_id)["traffic"] == "normal", "That depot is stopped.", "那个网点已停运。")
        parcel = self.state["parcel"][parcel_id]
        self.need(parcel["depot"] != depot_id, "It is there already.", "包裹已经在那里。")
        parcel["depot"] = depot_id
        return {"parcel_id": parcel_id, "depot_id": depot_id}

    @changes(
        ("upgrade {parcel_id} to {service}", "把{parcel_id}改为{service}"),
        ("{parcel_id} travels as {service}.", "{parcel_id}已改为{service}。"),
    )
    def set_service(self, parcel_id: Parcel, service: Service) -> Result:
        """Choose how a parcel travels. | 选择包裹的服务类型。"""
        parcel = self.get("parcel", parcel_id)
        self.need(parcel["service"] != service, "It travels so already.", "已经是该服务。")
        self.need(
            service != "express" or parcel["weight"] <= 20,
            f"It weighs {parcel['weight']:g} kilograms, too much for express.",
            f"重{parcel['weight']:g}公斤，超过特快上限。",
        )
        parcel["service"] = service
        return {"parcel_id": parcel_id, "service": service}

    @changes(
        ("deliver {parcel_id} on {delivery_day}", "把{parcel_id}安排在{delivery_day}派送"),
        ("{parcel_id} will be delivered on {delivery_day}.", "{parcel_id}将于{delivery_day}派送。"),
        sets="delivery_day",
    )
    def set_delivery(self, parcel_id: Parcel, delivery_day: DropDay) -> Result:
        """Set the delivery day of a parcel that is not held. | 设置未扣留包裹的派送日。"""
        self._moving(parcel_id)
        self.state["parcel"][parcel_id]["delivery_day"] = delivery_day
        return {"parcel_id": parcel_id, "delivery_day": delivery_day}

    @changes(
        ("tell the courier of {parcel_id} to {instruction}", "给{parcel_id}的快递员留言{instruction}"),
        ("The courier of {parcel_id} reads {instruction}.", "{parcel_id}的快递员会看到{instruction}。"),
        sets="instruction",
    )
    def instruct_courier(self, parcel_id: Parcel, instruction: Door) -> Result:
        """Leave an instruction for the courier of a parcel. | 给包裹的快递员留说明。"""
        self.get("parcel", parcel_id)["instruction"] = instruction
        return {"parcel_id": parcel_id, "instruction": instruction}

    @changes(
        ("insure {parcel_id} for {insured_value}", "给{parcel_id}保价{insured_value}元"),
        ("{parcel_id} is insured for {insured_value}.", "{parcel_id}已保价{insured_value}元。"),
        sets="insured_value",
    )
    def insure_parcel(self, parcel_id: Parcel, insured_value: Cover) -> Result:
        """Insure a parcel. | 给包裹保价。"""
        self.get("parcel", parcel_id)["insured_value"] = insured_value
        return {"parcel_id": parcel_id, "insured_value": insured_value}

    @changes(("hold {parcel_id}", "扣留{parcel_id}"), ("{parcel_id} is held.", "{parcel_id}已扣留。"))
    def hold_parcel(self, parcel_id: Parcel) -> Result:
        """Hold a parcel where it is. | 扣留包裹。"""
        parcel = self.get("parcel", parcel_id)
        self.need(parcel["hold"] == "no", "It is held already.", "包裹已扣留。")
        parcel["hold"] = "yes"
        return {"parcel_id": parcel_id, "hold": "yes"}

    @changes(("free {parcel_id}", "放行{parcel_id}"), ("{parcel_id} is free to go.", "{parcel_id}已放行。"))
    def free_parcel(self, parcel_id: Parcel) -> Result:
        """Let a held parcel go on. | 放行扣留的包裹。"""
        parcel = self.get("parcel", parcel_id)
        self.need(parcel["hold"] == "yes", "It is not held.", "包裹没有扣留。")
        parcel["hold"] = "no"
        return {"parcel_id": parcel_id, "hold": "no"}

    @changes(("restart {depot_id}", "恢复{depot_id}的运行"), ("{depot_id} is running.", "{depot_id}已恢复运行。"))
    def restart_depot(self, depot_id: Depot) -> Result:
        """Restart a stopped depot. | 恢复停运的网点。"""
        depot = self.get("depot", depot_id)
        self.need(depot["traffic"] == "stopped", "The depot is running.", "该网点正常运行。")
        depot["traffic"] = "normal"
        return {"depot_id": depot_id, "traffic": "normal"}
