"""A school: courses, pupils, enrolments and marks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Many, Ref, Time, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Course = Annotated[str, Ref("course", "课程", "course")]
Pupil = Annotated[str, Ref("pupil", "学生", "pupil")]
Pupils = Annotated[list[str], Many("pupils", "学生", Ref("pupil", "学生", "pupil"))]
Place = Annotated[str, Ref("enrolment", "选课记录", "enrolment")]
CourseTitle = Annotated[str, Words("course title", "课程名称", "title")]
PupilName = Annotated[str, Words("pupil's name", "学生姓名", "person")]
Seats = Annotated[int, Amount("number of seats", "座位数", 4, 30)]
Mark = Annotated[int, Amount("mark", "分数", 40, 100)]
Weekday = Annotated[
    str,
    Choice(
        "weekday",
        "星期",
        {
            "mon": ("Mondays", "周一"),
            "tue": ("Tuesdays", "周二"),
            "wed": ("Wednesdays", "周三"),
            "thu": ("Thursdays", "周四"),
            "fri": ("Fridays", "周五"),
        },
    ),
]
Hour = Annotated[str, Time("lesson time", "上课时间")]
Remark = Annotated[str, Words("remark", "评语", "note")]


class School(World):
    """A course takes as many pupils as it has seats; closed courses take none."""

    NAME = "school"
    TABLES = {
        "course": Table("CO", "course", "课程", ("the course “{course_title}”", "“{course_title}”课程")),
        "pupil": Table("PU", "pupil", "学生", ("{name}", "{name}")),
        "enrolment": Table(
            "EN", "enrolment", "选课记录", ("the place of {pupil} in {course}", "{pupil}在{course}的选课")
        ),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(3, 5)):
            new.row(
                "course",
                course_title=new.words("title"),
                seats=new.number(3, 6) * new.size,
                weekday=new.pick("mon", "tue", "wed"),
                lesson_time=new.time(),
                intake=new.pick("open", "open", "open", "closed"),
            )
        for _ in new.many(5, 7):
            pupil = new.row("pupil", name=new.words("person"))
            for course in new.some(self.state["course"], 0, 2):
                if self._taken(course) < self.state["course"][course]["seats"]:
                    new.row("enrolment", pupil=pupil, course=course, mark=None, remark="")

    def broken(self) -> Iterator[str]:
        pairs = [(e["pupil"], e["course"]) for e in self.state["enrolment"].values()]
        if len(set(pairs)) < len(pairs):
            yield "a pupil has two places in a course"
        if any(self._taken(id) > course["seats"] for id, course in self.state["course"].items()):
            yield "more pupils than seats"

    def _taken(self, course_id: str) -> int:
        return len(self.rows("enrolment", course=course_id))

    @finds("course")
    def find_courses(self, course_title: CourseTitle) -> Result:
        """Find courses by title. | 按名称查找课程。"""
        return self.found("course", course_title=course_title)

    @finds("pupil")
    def find_pupils(self, name: PupilName) -> Result:
        """Find pupils by name. | 按姓名查找学生。"""
        return self.found("pupil", name=name)

    @finds(
        "enrolment",
        ("list the places of {course_id}|list who attends {course_id}", "列出{course_id}的选课记录"),
        ("The marks so far: {r.enrolments.mark}.", "目前的分数：{r.enrolments.mark}。"),
    )
    def list_enrolments(self, course_id: Course) -> Result:
        """List the places of a course with pupil ids and marks. | 列出课程的选课记录、学生编号和分数。"""
        self.get("course", course_id)
        return self.found("enrolment", course=course_id)

    @finds("enrolment")
    def list_courses_of(self, pupil_id: Pupil) -> Result:
        """List the places that a pupil has in courses. | 列出一名学生的选课记录。"""
        self.get("pupil", pupil_id)
        return self.found("enrolment", pupil=pupil_id)

    @reads(
        ("tell me how many seats of {course_id} are free", "查一下{course_id}还有多少空位"),
        ("{r.free} seats are free.", "还有{r.free}个空位。"),
    )
    def count_free_seats(self, course_id: Course) -> Result:
        """Count the free seats of a course. | 统计课程的空位。"""
        return {"course_id": course_id, "free": self.get("course", course_id)["seats"] - self._taken(course_id)}

    @changes(
        ("enrol {pupil_ids} in {course_id}|sign {pupil_ids} up for {course_id}", "给{pupil_ids}报名{course_id}"),
        ("{pupil_ids} are enrolled in {course_id}.", "{pupil_ids}已报名{course_id}。"),
    )
    def enrol_pupils(self, course_id: Course, pupil_ids: Pupils) -> Result:
        """Enrol pupils in an open course with enough seats. | 为学生报名有空位的开放课程。"""
        course = self.get("course", course_id)
        for pupil_id in pupil_ids:
            self.get("pupil", pupil_id)
            self.need(
                not self.rows("enrolment", pupil=pupil_id, course=course_id),
                f"{pupil_id} has a place already.",
                f"{pupil_id}已经选了这门课。",
            )
        self.need(
            course["intake"] == "open",
            f"Course {course_id} is closed; reopen it first.",
            f"课程{course_id}已停止报名，请先重新开放。",
            ("reopen_course", {"course_id": course_id}),
        )
        self.need(
            self._taken(course_id) + len(pupil_ids) <= course["seats"], "There are not enough free seats.", "空位不够。"
        )
        return {
            "course_id": course_id,
            "enrolments": [self.made("enrolment", pupil=p, course=course_id, mark=None, remark="") for p in pupil_ids],
        }

    @changes(
        ("give {enrolment_id} the mark {mark}", "给{enrolment_id}打{mark}分"),
        ("The mark for {enrolment_id} is {mark}.", "{enrolment_id}的分数是{mark}。"),
        sets="mark",
    )
    def set_mark(self, enrolment_id: Place, mark: Mark) -> Result:
        """Give a mark for a place in a course. | 为一条选课记录打分。"""
        self.get("enrolment", enrolment_id)["mark"] = mark
        return {"enrolment_id": enrolment_id, "mark": mark}

    @changes(
        ("write the remark {remark} for {enrolment_id}", "给{enrolment_id}写评语{remark}"),
        ("The remark for {enrolment_id} says {remark}.", "{enrolment_id}的评语是{remark}。"),
        sets="remark",
    )
    def write_remark(self, enrolment_id: Place, remark: Remark) -> Result:
        """Write a remark for a place in a course. | 为一条选课记录写评语。"""
        self.get("enrolment", enrolment_id)["remark"] = remark
        return {"enrolment_id": enrolment_id, "remark": remark}

    @changes(
        ("take {enrolment_id} back|end {enrolment_id}", "撤销{enrolment_id}"),
        ("{enrolment_id} is ended.", "{enrolment_id}已撤销。"),
    )
    def end_enrolment(self, enrolment_id: Place) -> Result:
        """End a pupil's place in a course. | 撤销学生的选课。"""
        self.get("enrolment", enrolment_id)
        del self.state["enrolment"][enrolment_id]
        return {"enrolment_id": enrolment_id, "status": "ended"}

    @changes(
        ("move {course_id} to {weekday} at {lesson_time}", "把{course_id}改到{weekday} {lesson_time}"),
        ("{course_id} is on {weekday} at {lesson_time}.", "{course_id}改在{weekday} {lesson_time}。"),
        sets="lesson_time",
    )
    def move_course(self, course_id: Course, weekday: Weekday, lesson_time: Hour) -> Result:
        """Move a course to another weekday and time. | 修改课程的星期和时间。"""
        self.get("course", course_id).update(weekday=weekday, lesson_time=lesson_time)
        return {"course_id": course_id, "weekday": weekday, "lesson_time": lesson_time}

    @changes(
        ("set the seats of {course_id} to {seats}", "把{course_id}的座位数设为{seats}"),
        ("{course_id} has {seats} seats.", "{course_id}有{seats}个座位。"),
        sets="seats",
    )
    def set_seats(self, course_id: Course, seats: Seats) -> Result:
        """Set the seats of a course, not below the pupils that it has. | 设置课程座位数，不得少于已选人数。"""
        course = self.get("course", course_id)
        self.need(seats >= self._taken(course_id), "More pupils than that are enrolled.", "已选人数超过了这个数。")
        course["seats"] = seats
        return {"course_id": course_id, "seats": seats}

    @changes(
        ("close {course_id} for new pupils", "停止{course_id}的报名"),
        ("{course_id} takes nobody any more.", "{course_id}已停止报名。"),
    )
    def close_course(self, course_id: Course) -> Result:
        """Close a course for new pupils. | 停止课程报名。"""
        course = self.get("course", course_id)
        self.need(course["intake"] == "open", "The course is closed already.", "该课程已停止报名。")
        course["intake"] = "closed"
        return {"course_id": course_id, "intake": "closed"}

    @changes(
        ("reopen {course_id} for new pupils", "重新开放{course_id}的报名"),
        ("{course_id} takes pupils again.", "{course_id}已重新开放报名。"),
    )
    def reopen_course(self, course_id: Course) -> Result:
        """Reopen a closed course. | 重新开放课程报名。"""
        course = self.get("course", course_id)
        self.need(course["intake"] == "closed", "The course is open already.", "该课程本来就开放报名。")
        course["intake"] = "open"
        return {"course_id": course_id, "intake": "open"}
